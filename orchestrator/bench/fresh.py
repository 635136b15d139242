"""One measurement in a fresh process: a probe is run, and the stages that it prints are read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import ModelLoadError

MARK: Final = "start-up: "
"""Opens the line of a probe's output that holds the result: ``{"stages": {...}}`` or an error."""
TIMEOUT_S: Final = 600.0


def stages_of(
    probe: str, task: Mapping[str, Any], environment: Mapping[str, str], *, model: str, folder: Path
) -> dict[str, float]:
    """The stages of one fresh process, in seconds.

    Args:
        probe: the module with ``main(begun)``, which is told the task as JSON in its first argument.
        task: what it is to do; ``started`` is the system's monotonic clock just before the process starts.
        environment: of the process.
        model: the engine, for errors.
        folder: of the engine's files, for errors.

    Raises:
        ModelLoadError: the engine did not start.
    """
    program = f"import time; begun = time.monotonic(); from {probe} import main; main(begun)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, json.dumps(task)],
            capture_output=True,
            text=True,
            env=dict(environment),
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelLoadError(
            f"the engine did not start within {TIMEOUT_S:g} s",
            fix="look at the machine's load",
            model=model,
            path=folder,
        ) from error
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
            if "error" in answer:
                raise ModelLoadError(answer["error"], fix=answer["fix"], model=model)
            stages: dict[str, float] = answer["stages"]
            return stages
    reason = ([line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"])[-1]
    raise ModelLoadError(
        f"the engine did not start: {reason[:300]}",
        fix=f"load it by hand to see why: its files are in {folder}",
        model=model,
        path=folder,
    )
