"""The live streams of one model: which Triton sequence is which stream of the engine, and for how long.

Streams are begun by a chunk with Triton's start flag and forgotten by one with the end flag, by an idle
timeout, or by a failure of the model. There is one call of the engine for all chunks of an ``execute``; what
is wrong with one request is known before that call and concerns that request alone.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.backend.chunks import ChunkJob, StreamId
from orchestrator.backend.context import ModelContext
from orchestrator.engines.streaming import Chunk, StreamingRecognizer
from orchestrator.errors import (
    InferenceError,
    InvalidRequestError,
    ModelLoadError,
    SpeechError,
    StreamLimitError,
    StreamLostError,
)

_ENGINE_FAILURES = (SpeechError, RuntimeError, ValueError, MemoryError)
"""What an engine can fail with: torch reports everything as RuntimeError, memory included."""


@dataclass(slots=True)
class _Stream:
    """``number`` is the engine's name for it; ``used_s`` when its last chunk came, on the store's clock."""

    number: int
    used_s: float


@dataclass(frozen=True, slots=True)
class StreamCounts:
    """What the streams of a model did so far.

    Attributes:
        open, capacity: streams now, and the most there can be.
        steps, step_s: calls of the engine, and the seconds they took.
        opened, refused: streams that were begun, and that found no place.
        expired, lost: streams forgotten because they were idle, and because the model failed.
    """

    open: int
    capacity: int
    steps: int
    step_s: float
    opened: int
    refused: int
    expired: int
    lost: int


class Streams:
    """The streams of one engine, by Triton's correlation id. Not thread-safe: ``execute`` is not either.

    Args:
        engine: what recognises; its ``info.max_streams`` bounds the store.
        context: the model; ``idle_timeout_s`` is how long a stream may send nothing.
        clock: seconds that never go back.

    Raises:
        ModelLoadError: the engine takes chunks of another length than config.pbtxt tells the clients.
    """

    def __init__(
        self,
        engine: StreamingRecognizer,
        context: ModelContext,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if context.chunk_ms != engine.info.chunk_ms:
            raise ModelLoadError(
                f"{context.name} tells its clients chunks of {context.chunk_ms} ms, its checkpoint takes "
                f"{engine.info.chunk_ms} ms",
                model=context.name,
                fix=f"set streaming.chunk_ms = {engine.info.chunk_ms} and build the release again",
            )
        self._engine = engine
        self._context = context
        self._clock = clock
        # In the order of their last chunk, the longest idle first.
        self._streams: OrderedDict[StreamId, _Stream] = OrderedDict()
        self._steps = self._opened = self._refused = self._expired = self._lost = 0
        self._step_s = 0.0

    @property
    def counts(self) -> StreamCounts:
        """What happened so far."""
        return StreamCounts(
            open=len(self._streams),
            capacity=self._engine.info.max_streams,
            steps=self._steps,
            step_s=self._step_s,
            opened=self._opened,
            refused=self._refused,
            expired=self._expired,
            lost=self._lost,
        )

    def step(self, jobs: Sequence[ChunkJob]) -> None:
        """Fill each open job's update or fault, in one call of the engine."""
        now_s = self._clock()
        self._mark_used(jobs, now_s)
        self._expire(now_s)
        ready: dict[StreamId, tuple[ChunkJob, Chunk]] = {}
        for job in jobs:
            if job.stream in ready:
                self._fail(job, _twice())
                continue
            chunk = self._chunk(job, now_s)
            if chunk is not None:
                ready[job.stream] = (job, chunk)
        if ready:
            self._run(list(ready.values()))

    def close(self) -> None:
        """Forget all streams and free the engine."""
        for stream in list(self._streams):
            self._forget(stream)
        self._engine.close()

    def _mark_used(self, jobs: Sequence[ChunkJob], now_s: float) -> None:
        # Before the idle ones are looked for: a chunk may have waited long for a busy model.
        for job in jobs:
            known = self._streams.get(job.stream)
            if known is not None:
                known.used_s = now_s
                self._streams.move_to_end(job.stream)

    def _expire(self, now_s: float) -> None:
        while self._streams:
            stream, known = next(iter(self._streams.items()))
            if now_s - known.used_s <= self._context.idle_timeout_s:
                return
            self._forget(stream)
            self._expired += 1

    def _chunk(self, job: ChunkJob, now_s: float) -> Chunk | None:
        """The engine's chunk of a job, None where the job has no part in the step."""
        if job.start:
            self._forget(job.stream)  # whatever was known by that id, a new stream begins
        if job.open and job.opening is not None:
            self._open(job, now_s)
        known = self._streams.get(job.stream)
        if known is None and job.open:
            self._fail(job, self._unknown())
        if known is None or not job.open or job.samples is None:
            if job.end:
                self._forget(job.stream)
            return None
        return Chunk(known.number, job.samples, job.end, job.force_end_of_utterance)

    def _open(self, job: ChunkJob, now_s: float) -> None:
        try:
            number = self._engine.open(job.opening)
        except _ENGINE_FAILURES as error:
            if isinstance(error, StreamLimitError):
                self._refused += 1
                self._fail(job, self._full())
            else:
                self._fail(job, _as_fault(error))
            return
        self._streams[job.stream] = _Stream(number, now_s)
        self._opened += 1

    def _run(self, ready: Sequence[tuple[ChunkJob, Chunk]]) -> None:
        began_s = self._clock()
        try:
            updates = self._engine.step([chunk for _, chunk in ready])
            if len(updates) != len(ready):
                raise InferenceError(f"{len(updates)} results for {len(ready)} chunks")
        except _ENGINE_FAILURES as error:
            # The engine has forgotten these streams; their clients can begin them anew.
            fault = _as_fault(error)
            for job, _ in ready:
                self._forget(job.stream)
                self._lost += 1
                self._fail(job, self._failed(fault))
            return
        self._steps += 1
        self._step_s += self._clock() - began_s
        for (job, _), update in zip(ready, updates, strict=True):
            job.update = update
            if job.end:
                del self._streams[job.stream]

    def _forget(self, stream: StreamId) -> None:
        known = self._streams.pop(stream, None)
        if known is not None:
            self._engine.abort(known.number)

    def _fail(self, job: ChunkJob, error: SpeechError) -> None:
        error.model = error.model or self._context.name
        job.fault = error

    def _unknown(self) -> StreamLostError:
        return StreamLostError(
            f"{self._context.name} does not know this stream: it was refused, or it sent nothing for "
            f"{self._context.idle_timeout_s:g} s",
            fix="begin a new stream and send again what was not final; keep a silent one with empty chunks",
        )

    def _failed(self, reason: SpeechError) -> StreamLostError:
        return StreamLostError(
            f"{self._context.name} failed and lost this stream: {reason.message}",
            fix="begin a new stream and send again what was not final",
        )

    def _full(self) -> StreamLimitError:
        most = self._engine.info.max_streams
        return StreamLimitError(
            f"{self._context.name} has {most} live streams, as many as it was set up for",
            fix="try again later, end streams that are not needed, or raise streaming.max_streams and build "
            "the release again",
        )


def _twice() -> InvalidRequestError:
    return InvalidRequestError(
        "two chunks of one stream came together",
        fix="send a chunk after the answer to the one before it",
    )


def _as_fault(error: Exception) -> SpeechError:
    return error if isinstance(error, SpeechError) else InferenceError(f"the model failed: {error}")
