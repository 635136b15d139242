"""What a fresh process does until it recognises, stage by stage; `orchestrator.bench.startup` runs it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TypedDict

from orchestrator.bench.fresh import MARK


class Task(TypedDict):
    """What the probe is told, as JSON in its first argument."""

    started: float
    """The system's monotonic clock, in seconds, when the process was started."""
    folder: str
    device: str
    seconds: float


def main(begun: float) -> None:
    """Print the times of all stages; ``begun`` is the clock at the interpreter's first statement."""
    from orchestrator.errors import SpeechError

    try:
        answer: dict[str, object] = {"stages": _stages(begun, json.loads(sys.argv[1]))}
    except SpeechError as error:
        answer = {"error": error.message, "fix": error.fix}
    print(MARK + json.dumps(answer), flush=True)  # noqa: T201 (the parent reads it)


def _stages(begun: float, task: Task) -> dict[str, float]:
    stages: dict[str, float] = {"interpreter": begun - task["started"]}
    latest = begun

    def done(stage: str) -> None:
        nonlocal latest
        now = time.monotonic()
        stages[stage], latest = now - latest, now

    from orchestrator.engines import EngineSource, early

    source = EngineSource(Path(task["folder"]), task["device"], options={"warm_up": False})
    early.begin(source)  # as `orchestrator.engines.load` does
    done("import orchestrator")
    import torch

    done("import torch")
    on_gpu = torch.device(task["device"]).type == "cuda"
    if on_gpu:
        torch.zeros(1, device=task["device"])
        torch.cuda.synchronize()
        done("CUDA init")
    import numpy as np

    from orchestrator.engines.parakeet import ParakeetRecognizer

    done("import engine")
    noise = np.random.default_rng(0).normal(0.0, 0.1, int(task["seconds"] * 16_000)).astype(np.float32)
    recognizer = ParakeetRecognizer(source)
    if on_gpu:
        torch.cuda.synchronize()
    done("weights to device")
    if on_gpu:
        recognizer.warm_up()
        done("warm-up")
    recognizer.recognize([noise])
    done("first recognition")
    stages["start to first transcript"] = latest - task["started"]
    recognizer.recognize([noise])
    done("second recognition")
    return stages
