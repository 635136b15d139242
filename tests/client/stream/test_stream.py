"""Live streams end to end, over the real protocol, with a simulated recogniser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from orchestrator.client import (
    Completed,
    Final,
    Partial,
    SpeechClient,
    StreamEvent,
)
from tests.client.stream.simulated import say

WORDS = [(7, 200, 50), (8, 200, 600), (9, 150, 700), (10, 300, 400)]
TEXTS = ["w7 w8", "w9", "w10"]


@pytest.fixture
def client(server: Any) -> Iterator[SpeechClient]:
    with SpeechClient(server.url) as made:
        yield made


def texts(events: list[StreamEvent]) -> list[str]:
    return [event.segment.text for event in events if isinstance(event, Final)]


def collect(client: SpeechClient, source: Any, **options: Any) -> list[StreamEvent]:
    return list(client.stream(source, **options))


def pieces(audio: np.ndarray, size: int) -> Iterator[bytes]:
    data = audio.tobytes()
    for begin in range(0, len(data), size):
        yield data[begin : begin + size]


def test_finals_partials_and_the_transcript(server: Any, client: SpeechClient) -> None:
    events = collect(client, pieces(say(WORDS), 999))
    assert texts(events) == TEXTS
    assert [e.utterance for e in events if isinstance(e, Final)] == [0, 1, 2]
    final = next(event for event in events if isinstance(event, Final))
    assert [(word.text, word.start, word.end) for word in final.segment.words] == [
        ("w7", 0.0, 0.2),
        ("w8", 0.25, 0.45),
    ]
    partials = [event for event in events if isinstance(event, Partial)]
    assert {partial.segment.text for partial in partials} >= {"w7", "w7 w8", "w9"}
    assert isinstance(events[-1], Completed)
    transcript = events[-1].transcript
    assert [segment.text for segment in transcript.segments] == TEXTS
    assert (transcript.engine, transcript.language) == ("shell", "en")
    assert transcript.duration == pytest.approx(len(say(WORDS)) / 16_000, abs=1e-3)
    assert server.sequences == {}
