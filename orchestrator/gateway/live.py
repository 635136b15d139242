"""A live stream of the client library, one answer to each piece of audio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from orchestrator.client import AsyncSpeechClient
from orchestrator.client.routing import AUTO
from orchestrator.client.stream.events import CaughtUp, StreamEvent
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import Samples
from orchestrator.engines.endpointing import EndpointingOptions

_TOLERANCE_S: Final = 0.5 / SAMPLE_RATE_HZ
"""Times of whole samples, as floats, may differ by less."""
_MAX_FLOAT: Final = 4.0
"""Codecs overshoot full scale; what goes further than this is clipped."""


@dataclass(frozen=True, slots=True)
class LiveJob:
    """What is asked of one live stream.

    Attributes:
        model: the name of an engine or a model that can stream, or ``auto``.
        language: BCP-47 tag; None takes the model's first.
        partials: whether partial results are wanted.
        speakers: whether to name speakers.
        max_speakers: the most there may be, where that is known.
        endpointing: when an utterance begins and ends.
    """

    model: str = AUTO
    language: str | None = None
    partials: bool = True
    speakers: bool = False
    max_speakers: int | None = None
    endpointing: EndpointingOptions = field(default_factory=EndpointingOptions)


class TritonLive:
    """`Live` over `AsyncSpeechClient.stream`."""

    def __init__(self, client: AsyncSpeechClient, job: LiveJob) -> None:
        """Prepare; the upstream is asked when the first audio comes."""
        self._stream = client.stream(
            self._source(),
            engine=job.model,
            language=job.language,
            partials=job.partials,
            caught_up=True,
            diarize=job.speakers,
            max_speakers=job.max_speakers,
            endpointing=job.endpointing,
        )
        self._pieces: asyncio.Queue[tuple[Samples, bool] | None] = asyncio.Queue()
        self._samples = 0
        self._heard_s = -1.0
        self._waiting: list[StreamEvent] = []
        self._news = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    @property
    def language(self) -> str | None:
        """See `Live.language`."""
        return self._stream.language

    async def hear(self, samples: Samples, *, end_utterance: bool = False) -> Sequence[StreamEvent]:
        """See `Live.hear`."""
        reading = self._begun()
        if samples.size or end_utterance:
            self._samples += samples.size
            self._heard_s = -1.0
            self._pieces.put_nowait((samples, end_utterance))
            wanted_s = self._samples / SAMPLE_RATE_HZ - _TOLERANCE_S
            while self._heard_s < wanted_s and not reading.done():
                self._news.clear()
                await self._news.wait()
        if reading.done():
            reading.result()  # raises what ended the stream
        return self._taken()

    async def finish(self, samples: Samples) -> Sequence[StreamEvent]:
        """See `Live.finish`."""
        reading = self._begun()
        if samples.size:
            self._pieces.put_nowait((samples, False))
        self._pieces.put_nowait(None)
        await reading
        return self._taken()

    async def close(self) -> None:
        """See `Live.close`."""
        reading = self._reading
        if reading is not None:
            if not reading.done():
                reading.cancel()
                await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()  # whoever waited for it has seen it
        await self._stream.aclose()

    def _begun(self) -> asyncio.Task[None]:
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(lambda _: self._news.set())
        return self._reading

    def _taken(self) -> Sequence[StreamEvent]:
        events, self._waiting = self._waiting, []
        return events

    async def _read(self) -> None:
        async for event in self._stream:
            if isinstance(event, CaughtUp):
                self._heard_s = event.until_s
                self._news.set()
            else:
                self._waiting.append(event)

    async def _source(self) -> AsyncGenerator[Samples, None]:
        while (piece := await self._pieces.get()) is not None:
            samples, end_utterance = piece
            yield np.clip(samples, -_MAX_FLOAT, _MAX_FLOAT)
            if end_utterance:  # the piece has been taken in by now, and nothing has been sent since
                self._stream.end_utterance()
