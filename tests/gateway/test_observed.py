from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from orchestrator.client.stream.events import Final, Partial, StreamEvent
from orchestrator.errors import RemoteInferenceError
from orchestrator.gateway.metrics import GatewayMetrics
from orchestrator.gateway.observed import ObservedLive, ObservedService
from orchestrator.gateway.service import Job
from orchestrator.transcript.models import Segment, Transcript, Word

RATE = 16_000
PREFIX = "spark_speech_gateway_"


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Script:
    """A stream whose pieces take ``took_s`` of the clock and bring what was written down."""

    clock: Clock
    took_s: float = 0.5
    events: list[Sequence[StreamEvent]] = field(default_factory=list)
    language: str | None = "en"
    closed: bool = False

    async def hear(self, samples: Any, *, end_utterance: bool = False) -> Sequence[StreamEvent]:
        self.clock.now += self.took_s
        return self.events.pop(0) if self.events else []

    async def finish(self, samples: Any) -> Sequence[StreamEvent]:
        return await self.hear(samples)

    async def close(self) -> None:
        self.closed = True


def segment(*ends: float) -> Segment:
    words = tuple(Word(text="x", start=end - 0.1, end=end, confidence=1.0) for end in ends)
    return Segment(start=0, end=ends[-1] if ends else 0, text="x", words=words)


def second(count: float = 1.0) -> Any:
    return np.zeros(int(count * RATE), np.float32)


@pytest.fixture
def metrics() -> GatewayMetrics:
    return GatewayMetrics(lambda: 0)


def value(metrics: GatewayMetrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(PREFIX + name, labels) or 0.0


def test_words_are_timed_from_the_arrival_of_their_audio(metrics: GatewayMetrics) -> None:
    clock = Clock()
    script = Script(clock)
    live = ObservedLive(script, metrics, clock)
    script.events = [
        [],  # the first second comes at 100
        [Partial(0, segment(0.9), 0.5)],  # the second one at 101, heard at 101.5: its word was there at 100
        [Partial(0, segment(0.9, 2.0), 0.5)],  # more of the same utterance is not its first
        [Final(0, segment(0.9, 2.0)), Final(1, segment())],  # 103.5; the last word was there at 101
        [Final(2, segment(4.5))],  # 104.5; came at 104
    ]

    async def talk() -> None:
        for _ in range(4):
            await live.hear(second())
            clock.now += 0.5
        await live.finish(second())
        await live.close()

    asyncio.run(talk())
    assert value(metrics, "stream_first_partial_seconds_count") == 2
    assert value(metrics, "stream_first_partial_seconds_sum") == pytest.approx(1.5 + 0.5)
    assert value(metrics, "stream_final_seconds_count") == 2
    assert value(metrics, "stream_final_seconds_sum") == pytest.approx(2.5 + 0.5)
    assert value(metrics, "stream_real_time_factor_sum") == pytest.approx(5 * 0.5 / 5)
    assert value(metrics, "upstream_seconds_count", kind="piece") == 5
    assert script.closed


def test_hours_are_not_kept(metrics: GatewayMetrics) -> None:
    clock = Clock()
    script = Script(clock, took_s=0.0)
    live = ObservedLive(script, metrics, clock)

    async def talk() -> None:
        for number in range(3000):
            script.events = [[Final(number, segment(0.16 * (number + 1)))]]
            await live.hear(second(0.16))
            clock.now += 0.16

    asyncio.run(talk())
    assert len(live._came) == len(live._heard_s) < 300
    assert value(metrics, "stream_final_seconds_sum") == pytest.approx(0, abs=1e-6)


def test_what_waits_for_the_upstream_is_counted_and_failures_are_not_timed(metrics: GatewayMetrics) -> None:
    waiting: list[float] = []

    class Service:
        async def transcribe(self, recording: Any, job: Job) -> Transcript:
            waiting.append(value(metrics, "upstream_waiting", kind="recording"))
            if job.model == "broken":
                raise RemoteInferenceError("no")
            return Transcript(duration=1.0)

    service: Any = ObservedService(Service(), metrics)  # type: ignore[arg-type]
    assert asyncio.run(service.transcribe(second(), Job())).duration == 1.0
    with pytest.raises(RemoteInferenceError):
        asyncio.run(service.transcribe(second(), Job(model="broken")))
    assert waiting == [1, 1]
    assert value(metrics, "upstream_waiting", kind="recording") == 0
    assert value(metrics, "upstream_seconds_count", kind="recording") == 1
