"""A `SpeechService` that measures another: how long the upstream takes, and how late words come."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Final

from orchestrator.client import ModelCard
from orchestrator.client.stream.events import Final as FinalEvent
from orchestrator.client.stream.events import Partial, StreamEvent
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import Samples
from orchestrator.gateway.live import LiveJob
from orchestrator.gateway.metrics import GatewayMetrics
from orchestrator.gateway.service import Job, Live, SpeechService
from orchestrator.tracing import span
from orchestrator.transcript.models import Transcript

_FORGET: Final = 256
"""Pieces of audio that are final before they are dropped together."""


class ObservedService:
    """`SpeechService` over another."""

    def __init__(self, service: SpeechService, metrics: GatewayMetrics) -> None:
        """Measure ``service``, for ``metrics`` and the traces."""
        self._service = service
        self._metrics = metrics

    async def models(self) -> tuple[ModelCard, ...]:
        """See `SpeechService.models`."""
        return await self._service.models()

    async def check_ready(self) -> None:
        """See `SpeechService.check_ready`."""
        await self._service.check_ready()

    async def transcribe(self, recording: Path | Samples, job: Job) -> Transcript:
        """See `SpeechService.transcribe`."""
        with (
            span("upstream recording", kind="client", model=job.model, speakers=job.speakers) as current,
            self._metrics.upstream("recording"),
        ):
            transcript = await self._service.transcribe(recording, job)
            current.note(audio_s=transcript.duration)
        return transcript

    def stream(self, job: LiveJob) -> Live:
        """See `SpeechService.stream`."""
        return ObservedLive(self._service.stream(job), self._metrics)

    async def close(self) -> None:
        """See `SpeechService.close`."""
        await self._service.close()


class ObservedLive:
    """`Live` over another."""

    def __init__(self, live: Live, metrics: GatewayMetrics, clock: Callable[[], float] = monotonic) -> None:
        """Measure ``live``; ``clock`` counts seconds."""
        self._live = live
        self._metrics = metrics
        self._clock = clock
        self._samples = 0
        self._spent_s = 0.0
        self._heard_s: list[float] = []  # where pieces end in the stream, in seconds
        self._came: list[float] = []  # when they came, on the clock
        self._begun = -1  # the utterance whose first words have been told

    @property
    def language(self) -> str | None:
        """See `Live.language`."""
        return self._live.language

    async def hear(self, samples: Samples, *, end_utterance: bool = False) -> Sequence[StreamEvent]:
        """See `Live.hear`."""
        with self._piece(samples):
            events = await self._live.hear(samples, end_utterance=end_utterance)
        self._observe(events)
        return events

    async def finish(self, samples: Samples) -> Sequence[StreamEvent]:
        """See `Live.finish`."""
        with self._piece(samples), span("upstream end of stream", kind="client"):
            events = await self._live.finish(samples)
        self._observe(events)
        if self._samples:
            self._metrics.stream_real_time_factor.observe(self._spent_s * SAMPLE_RATE_HZ / self._samples)
        return events

    async def close(self) -> None:
        """See `Live.close`."""
        await self._live.close()

    @contextmanager
    def _piece(self, samples: Samples) -> Iterator[None]:
        self._samples += samples.size
        came = self._clock()
        self._heard_s.append(self._samples / SAMPLE_RATE_HZ)
        self._came.append(came)
        try:
            with self._metrics.upstream("piece"):
                yield
        finally:
            self._spent_s += self._clock() - came

    def _observe(self, events: Sequence[StreamEvent]) -> None:
        now = self._clock()
        for event in events:
            if not isinstance(event, Partial | FinalEvent) or not event.segment.words:
                continue
            words = event.segment.words
            if event.utterance > self._begun:
                self._begun = event.utterance
                self._metrics.first_words.observe(now - self._when(words[0].end))
            if isinstance(event, FinalEvent):
                self._metrics.final_words.observe(now - self._when(words[-1].end))
                self._forget(words[-1].end)

    def _when(self, stream_s: float) -> float:
        """When the audio at ``stream_s`` seconds of the stream came, as far as that is known."""
        place = bisect_left(self._heard_s, stream_s)
        return self._came[min(place, len(self._came) - 1)]

    def _forget(self, before_s: float) -> None:
        done = bisect_left(self._heard_s, before_s)
        if done >= _FORGET:
            del self._heard_s[:done], self._came[:done]
