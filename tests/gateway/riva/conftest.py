"""Riva's service on a real port, over a recogniser that only counts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from orchestrator.client.catalog import ModelCard
from orchestrator.client.stream.events import Completed, Final, Partial, StreamEvent
from orchestrator.contract import Task
from orchestrator.errors import SpeechError
from orchestrator.gateway.admission import Admission
from orchestrator.gateway.live import LiveJob
from orchestrator.gateway.metrics import GatewayMetrics
from orchestrator.gateway.riva.server import RivaServer
from orchestrator.gateway.service import Job
from orchestrator.settings import GatewaySettings
from orchestrator.transcript.models import Segment, Transcript, Word

RATE = 16_000
STEP = 1600
"""Samples of one word of the recogniser."""
CARDS = (
    ModelCard("diarizer", True, ("1",), task=Task.DIARIZE, rank=1),
    ModelCard("echo", True, ("1",), task=Task.RECOGNIZE, engine="parrot", languages=("en", "de"), rank=10),
    ModelCard("ears", True, ("1",), task=Task.STREAM, engine="ears", languages=("en",), rank=20),
    ModelCard("asleep", False, state="UNAVAILABLE", reason="no weights"),
)


def word(number: int, text: str | None = None, speaker: str | None = None, gap: float = 0.0) -> Word:
    begin = number * 0.1 + gap
    text = text or ("One", "two,", "three", "four", "Five.")[number % 5]
    return Word(text=text, start=begin, end=begin + 0.1, confidence=0.5, speaker=speaker)


def segment(words: Sequence[Word]) -> Segment:
    return Segment(
        start=words[0].start if words else 0,
        end=words[-1].end if words else 0,
        text=" ".join(word.text for word in words),
        words=tuple(words),
    )


class FakeLive:
    """One word every `STEP` samples, a final every five words."""

    def __init__(self, service: FakeService, job: LiveJob) -> None:
        self.service, self.job = service, job
        self.samples = 0
        self.words: list[Word] = []
        self.told = 0
        self.utterance = 0
        self.closed = False

    @property
    def language(self) -> str | None:
        return self.service.language

    async def hear(self, samples: Any, *, end_utterance: bool = False) -> Sequence[StreamEvent]:
        await self.service.pause()
        assert samples.dtype == np.float32
        self.samples += samples.size
        events: list[StreamEvent] = []
        while (self.told + 1) * STEP <= self.samples:
            speaker = f"S{self.utterance}" if self.job.speakers else None
            self.words.append(word(self.told, speaker=speaker))
            self.told += 1
            if len(self.words) == 5:
                events += self._final()
            elif self.job.partials:
                events.append(Partial(self.utterance, segment(self.words), 0.25))
        return events + (self._final() if end_utterance else [])

    async def finish(self, samples: Any) -> Sequence[StreamEvent]:
        events = list(await self.hear(samples)) + self._final()
        return [*events, Completed(Transcript())]

    def _final(self) -> list[StreamEvent]:
        if not self.words:
            return []
        final = Final(self.utterance, segment(self.words))
        self.words, self.utterance = [], self.utterance + 1
        return [final]

    async def close(self) -> None:
        self.closed = True


@dataclass
class FakeService:
    """A `SpeechService`; ``error`` is raised, ``hold`` is waited for before answering."""

    words: tuple[Word, ...] = tuple(word(number, gap=float(number // 5)) for number in range(10))
    language: str | None = "en"
    cards: tuple[ModelCard, ...] = CARDS
    error: SpeechError | None = None
    unready: SpeechError | None = None
    hold: threading.Event | None = None
    asked: list[tuple[Any, Job]] = field(default_factory=list)
    lives: list[FakeLive] = field(default_factory=list)
    waiting: int = 0
    cancelled: int = 0

    async def models(self) -> tuple[ModelCard, ...]:
        return self.cards

    async def check_ready(self) -> None:
        if self.unready is not None:
            raise self.unready

    async def transcribe(self, recording: Any, job: Job) -> Transcript:
        self.asked.append((recording, job))
        await self.pause()
        return Transcript(
            duration=recording.size / RATE, language=self.language, segments=(segment(self.words),)
        )

    def stream(self, job: LiveJob) -> FakeLive:
        self.lives.append(FakeLive(self, job))
        return self.lives[-1]

    async def pause(self) -> None:
        self.waiting += 1
        try:
            while self.hold is not None and not self.hold.is_set():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        pass


@dataclass
class Riva:
    """A running server, on an event loop in a thread of its own."""

    port: int
    service: FakeService
    requests: Admission
    streams: Admission
    metrics: GatewayMetrics
    loop: asyncio.AbstractEventLoop

    @property
    def uri(self) -> str:
        return f"localhost:{self.port}"

    def drain(self, limit_s: float) -> None:
        for admission in (self.requests, self.streams):
            self.loop.call_soon_threadsafe(admission.drain, limit_s)


@contextmanager
def serving(**settings: Any) -> Iterator[Riva]:
    from orchestrator.runtime.ports import free_ports

    port = free_ports(1)[0]
    chosen = GatewaySettings(grpc_port=port, host="localhost", **settings)
    started: list[Riva] = []
    failed: list[BaseException] = []
    ready, over = threading.Event(), asyncio.Event()

    async def main() -> None:
        requests, streams = Admission(chosen.max_requests), Admission(chosen.max_streams, "streams")
        metrics = GatewayMetrics(lambda: requests.running, lambda: streams.running)
        service = FakeService()
        server = RivaServer(chosen, service, requests, streams, metrics)
        try:
            await server.start(port)
        except BaseException as error:
            failed.append(error)
            raise
        finally:
            if not failed:
                started.append(Riva(port, service, requests, streams, metrics, asyncio.get_running_loop()))
            ready.set()
        await over.wait()
        await server.stop()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException:
            if not failed:
                raise

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        if failed:
            raise failed[0]
        yield started[0]
    finally:
        if started:
            started[0].loop.call_soon_threadsafe(over.set)
        thread.join()


@pytest.fixture
def serve() -> Callable[..., Any]:
    """Start a server with some of its settings: a context manager."""
    return serving


@pytest.fixture
def riva() -> Iterator[Riva]:
    with serving() as started:
        yield started
        assert started.requests.running == started.streams.running == 0
        assert all(live.closed for live in started.service.lives)
