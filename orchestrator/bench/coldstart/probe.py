"""What a fresh process does until any engine recognises steadily, stage by stage."""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final, TypedDict

from orchestrator.bench.fresh import MARK

STAGES: Final = ("interpreter", "import", "weights", "kernels", "first")
"""In order; together they are the time from the start of the process to its first result."""
STEADY: Final = "steady"
_STEADY_CALLS: Final = 3
_APART: Final = frozenset({"parakeet", "whisper_torch"})
"""Engines whose preparation of the GPU can be had apart from loading; that of others is in ``weights``."""


class Task(TypedDict):
    """What the probe is told, as JSON in its first argument."""

    started: float
    """The system's monotonic clock, in seconds, when the process was started."""
    engine: str
    folder: str
    device: str
    recording: str
    seconds: float
    options: dict[str, Any]
    """Of the engine, beside its own defaults."""


def main(begun: float) -> None:
    """Print the times of all stages; ``begun`` is the clock at the interpreter's first statement."""
    from orchestrator.errors import SpeechError

    try:
        answer: dict[str, object] = {"stages": _stages(begun, json.loads(sys.argv[1]))}
    except SpeechError as error:
        answer = {"error": error.message, "fix": error.fix}
    print(MARK + json.dumps(answer), flush=True)  # noqa: T201 (the parent reads it)


def _stages(begun: float, task: Task) -> dict[str, float]:
    stages = {"interpreter": begun - task["started"]}
    latest = begun

    def done(stage: str) -> None:
        nonlocal latest
        now = time.monotonic()
        stages[stage], latest = now - latest, now

    from orchestrator.engines import EngineSource, load, spec

    engine = spec(task["engine"])
    for package in engine.packages:
        importlib.import_module(package.module)
    importlib.import_module(engine.module)
    import numpy as np

    done("import")
    apart = engine.name in _APART
    options = {**task["options"], **({"warm_up": False} if apart else {})}
    recognizer = load(engine.name, EngineSource(Path(task["folder"]), task["device"], options=options))
    done("weights")
    if apart and (task["device"] != "cpu" or options.get("compile")):
        recognizer.warm_up()  # type: ignore[attr-defined]
    done("kernels")
    from orchestrator.audio import decode
    from orchestrator.contract import SAMPLE_RATE_HZ

    # A client brings the audio: reading it is no part of the start.
    speech = np.resize(decode(Path(task["recording"])).samples[0], round(task["seconds"] * SAMPLE_RATE_HZ))
    latest = time.monotonic()
    recognizer.recognize([speech])
    done("first")
    steady = []
    for _ in range(_STEADY_CALLS):
        recognizer.recognize([speech])
        done(STEADY)
        steady.append(stages[STEADY])
    stages[STEADY] = statistics.median(steady)
    return stages
