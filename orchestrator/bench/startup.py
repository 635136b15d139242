"""How long the engine takes from the start of its process to its first transcript, and on what."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from orchestrator.bench.fresh import stages_of
from orchestrator.bench.report import Report, Row, versions
from orchestrator.bench.startup_probe import Task
from orchestrator.coldstart.cuda_cache import cuda_environment
from orchestrator.progress import ProgressReporter, SilentProgress

REPEATS: Final = 5
RECORDING_S: Final = 10.0
_PROBE: Final = "orchestrator.bench.startup_probe"


def run(
    folder: Path,
    *,
    device: str = "cpu",
    repeats: int = REPEATS,
    seconds: float = RECORDING_S,
    cache: Path | None = None,
    weights: str = "--folder FOLDER",
    progress: ProgressReporter | None = None,
) -> Report:
    """Measure.

    Args:
        folder: of the engine's files: a version folder of a release, or what `bench.synthetic` wrote.
        device: a torch device.
        repeats: fresh processes, one after another; the first may find cold disk caches.
        seconds: length of the recording.
        cache: where a server keeps what GPUs compile; None: wherever they do by themselves.
        weights: the command line's words for ``folder``.
        progress: where to say how far it is.

    Raises:
        ModelLoadError: the engine did not start.
    """
    environment = {**os.environ, **({} if cache is None else cuda_environment(cache))}
    task = (progress or SilentProgress()).task("start-up", total=repeats)
    runs = []
    for done in range(repeats):
        runs.append(_one(folder, device, seconds, environment))
        task.update(completed=done + 1)
    task.finish()
    return Report(
        title=f"parakeet from process start to its first transcript, {device}",
        command=f"spark-speech bench startup {weights} --device {device} --repeats {repeats}",
        rows=_rows(runs),
        notes=(
            f"Fresh processes, {repeats} of them; {seconds:g} s of audio. first_s is the first process, which"
            " may have had to read from disk what the others found in memory.",
        ),
        versions=versions(("torch", "safetensors", "numpy")),
    )


def _rows(runs: Sequence[Mapping[str, float]]) -> list[Row]:
    return [
        {
            "stage": stage,
            "median_s": statistics.median(run[stage] for run in runs),
            "lowest_s": min(run[stage] for run in runs),
            "highest_s": max(run[stage] for run in runs),
            "first_s": runs[0][stage],
        }
        for stage in runs[0]
    ]


def _one(folder: Path, device: str, seconds: float, environment: Mapping[str, str]) -> dict[str, float]:
    """The stages of one fresh process, in seconds."""
    task = Task(started=time.monotonic(), folder=str(folder.absolute()), device=device, seconds=seconds)
    return stages_of(_PROBE, task, environment, model="parakeet", folder=folder)
