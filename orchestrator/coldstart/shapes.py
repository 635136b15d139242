"""The sizes of work for which a GPU compiles, tunes and captures something of its own.

Batches are filled up to the next of a row of sizes, and audio to the next of a row of lengths, so these are
all there are. A CPU prepares nothing by size: there one size of each length shows that the model works.

A model of live streams steps in all its sizes while it loads (`orchestrator.backend.warmup`). Here half of
its places at most are taken, and only for moments, so that a server in use has some left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from orchestrator.backend.warmup import step_sizes
from orchestrator.contract import Task

LENGTHS_S: Final = (1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0)
"""Audio of recordings, in seconds, to which encoders fill up."""
_CPU_LENGTHS_S: Final = (1.0, 5.0)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What decides a model's shapes.

    Attributes:
        name: the model's name.
        task: what it does.
        gpu: whether it runs on one.
        max_batch: recordings in one call, or streams in one step.
        max_window_s: the longest audio of one request.
        chunk_ms: a streaming model's step; 0 for others.
        language: one that it knows; None where it needs none.
        takes_pcm16: it takes 16-bit audio.
    """

    name: str
    task: Task
    gpu: bool
    max_batch: int
    max_window_s: float
    chunk_ms: int = 0
    language: str | None = None
    takes_pcm16: bool = True


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """So many recordings, or streams, of this length at once; seconds."""

    batch: int
    seconds: float


def shapes_of(model: ServedModel) -> tuple[Shape, ...]:
    """Every shape of a model, the smallest first."""
    most = model.max_batch // 2 if model.task is Task.STREAM else model.max_batch
    batches = tuple(step_sizes(max(1, most))) if model.gpu else (1,)
    if model.task is Task.STREAM:
        return tuple(Shape(batch, model.chunk_ms / 1000) for batch in batches)
    if model.task is Task.DIARIZE:
        batches = batches[:1]  # it takes one recording at a time
    lengths = {min(length, model.max_window_s) for length in (LENGTHS_S if model.gpu else _CPU_LENGTHS_S)}
    return tuple(Shape(batch, length) for length in sorted(lengths) for batch in batches)
