"""The first steps of a streaming engine, before clients wait for them.

On a GPU the first step of each size compiles kernels and captures graphs, which takes longer than a chunk
lasts; on a CPU only the first step of all is slow. What is in memory then stays for as long as the model.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import Samples
from orchestrator.engines.streaming import Chunk, StreamingRecognizer


def warm_up(engine: StreamingRecognizer, device: str) -> None:
    """Step silent streams in groups of the sizes that ``device`` prepares for, then forget them.

    Raises:
        InferenceError: the engine cannot compute.
    """
    info = engine.info
    sizes = [size for size in step_sizes(info.max_streams) if size == 1 or device != "cpu"]
    streams = [engine.open() for _ in range(sizes[-1])]
    try:
        # What follows a chunk has to be there before the chunk is heard: from here, one chunk is one window.
        ahead = _silence(info.right_ms)
        engine.step([Chunk(stream, ahead) for stream in streams])
        chunk = _silence(info.chunk_ms)
        for size in sizes:
            engine.step([Chunk(stream, chunk) for stream in streams[:size]])
        engine.step([Chunk(streams[0], chunk, last=True)])
    finally:
        for stream in streams:
            engine.abort(stream)


def settle() -> None:
    """Keep the garbage collector from what exists by now: a full collection would stop all streams.

    With torch in memory (170,000 objects) one took 0.4 to 0.5 s on two busy cores, and none of it afterwards.
    """
    gc.collect()
    gc.freeze()


def step_sizes(most: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... below ``most``, and ``most``: batches are filled up to one of these."""
    power = 1
    while power < most:
        yield power
        if power >= 2 and power * 3 // 2 < most:
            yield power * 3 // 2
        power *= 2
    yield most


def _silence(length_ms: int) -> Samples:
    return np.zeros(length_ms * SAMPLE_RATE_HZ // 1000, dtype=np.float32)
