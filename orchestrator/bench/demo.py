"""Wall time of the demo as a newcomer meets it: from an empty home, then with everything in place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.bench.report import Report, Row, versions
from orchestrator.errors import RuntimeFailure
from orchestrator.progress import ProgressReporter, SilentProgress


def run(engine: str, *, progress: ProgressReporter | None = None) -> Report:
    """Run ``spark-speech demo`` twice in a process of its own, over one temporary home.

    Raises:
        RuntimeFailure: a run failed.
    """
    task = (progress or SilentProgress()).task(f"demo with {engine}", total=2)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="spark-speech-bench-") as home:
        for done, state in enumerate(("cold", "warm"), start=1):
            rows.append({"state": state, **_timed(engine, Path(home))})
            task.update(completed=done)
    task.finish()
    return Report(
        title=f"spark-speech demo --engine {engine}",
        command=f"spark-speech bench demo --engine {engine}",
        rows=rows,
        notes=(
            "cold: empty home, so weights and tritonserver are fetched or unpacked; warm: all reused.",
            "wall_s is the whole command with Python's start; the other columns are its steps.",
        ),
        versions=versions(("moonshine-voice", "pyannote.audio", "torch", "tritonclient")),
    )


def _timed(engine: str, home: Path) -> Row:
    command = [sys.executable, "-m", "orchestrator.cli", "demo", "--engine", engine, "--json"]
    begin = time.perf_counter()
    ended = subprocess.run(
        command,
        env={**os.environ, "SPARK_SPEECH__PATHS__HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    wall_s = time.perf_counter() - begin
    if ended.returncode != 0:
        raise RuntimeFailure(f"the demo failed: {_reason(ended.stdout)}", fix="run `spark-speech demo`")
    steps: dict[str, float] = json.loads(ended.stdout)["seconds"]
    return {"wall_s": round(wall_s, 1), **steps}


def _reason(output: str) -> str:
    try:
        return str(json.loads(output)["message"])
    except (ValueError, TypeError, KeyError):
        return "it printed no reason"
