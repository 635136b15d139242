"""Speakers of live streams over the real protocol, with a diarizer that knows voices by their level."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from orchestrator.client import SpeechClient
from orchestrator.client.stream.events import Completed, Final, SpeakerChange, StreamEvent
from orchestrator.errors import ModelNotFoundError
from orchestrator.settings import ClientSettings, Settings
from tests.client.stream.simulated import say

FULL_SCALE = 32_768
TALK = [(7, 1500, 600), (8, 1200, 600), (7, 1000, 400)]


@pytest.fixture
def gate() -> threading.Event:
    """The diarizer answers while this is set."""
    opened = threading.Event()
    opened.set()
    return opened


@pytest.fixture
def talking(server: Any, tools: Any, gate: threading.Event) -> Any:
    def diarize(audio: np.ndarray, options: dict[str, Any]) -> Any:
        gate.wait(120)
        levels = np.rint(audio * FULL_SCALE).astype(int)
        people = np.unique(levels[levels > 0])
        turns = []
        for number, level in enumerate(people):
            edges = np.flatnonzero(np.diff(levels == level, prepend=False, append=False))
            turns += [(a // 16, b // 16, number) for a, b in edges.reshape(-1, 2).tolist()]
        outputs = tools.diarization(sorted(turns), speakers=len(people))
        embeddings = np.eye(16, dtype=np.float32)[people]
        outputs["SPEAKER_EMBEDDING"] = ("FP32", [1, len(people), 16], embeddings.tobytes())
        return outputs

    server.models["diarizer"] = tools.Model(diarize, {"task": "diarize", "rank": "1"})
    return server


def listen(server: Any, **options: Any) -> list[StreamEvent]:
    settings = Settings(client=ClientSettings(speaker_wait_s=options.pop("wait_s", 60)))
    with SpeechClient(server.url, settings=settings) as client:
        return list(client.stream(iter([say(TALK)]), **options))


def speakers(events: list[StreamEvent], kind: type[Final] | type[SpeakerChange]) -> list[str | None]:
    return [event.segment.speaker for event in events if isinstance(event, kind)]


def test_finals_and_the_transcript_have_speakers(talking: Any) -> None:
    events = listen(talking)
    assert speakers(events, Final) == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_00"]
    assert speakers(events, SpeakerChange) == []
    assert isinstance(events[-1], Completed)
    words = events[-1].transcript.words
    assert [word.speaker for word in words] == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_00"]
    assert events[-1].transcript.speakers == ("SPEAKER_00", "SPEAKER_01")
    asked = [seen.options for seen in talking.seen if seen.model == "diarizer"]
    assert {options["mode"] for options in asked} == {"local"}


def test_late_speakers_come_as_changes_after_their_finals(talking: Any, gate: threading.Event) -> None:
    gate.clear()
    settings = Settings(client=ClientSettings(speaker_wait_s=0.05))
    events = []
    with SpeechClient(talking.url, settings=settings) as client:
        for event in client.stream(iter([say(TALK)])):
            events.append(event)
            if isinstance(event, Final) and event.utterance == 2:
                gate.set()
    assert speakers(events, Final) == [None] * 3
    finals = [event.utterance for event in events if isinstance(event, Final)]
    changes = [event for event in events if isinstance(event, SpeakerChange)]
    assert finals == [0, 1, 2]
    assert sorted(change.utterance for change in changes) == finals
    assert isinstance(events[-1], Completed)
    assert [word.speaker for word in events[-1].transcript.words] == [
        "SPEAKER_00",
        "SPEAKER_01",
        "SPEAKER_00",
    ]


def test_relabelling_asks_about_the_whole(talking: Any) -> None:
    events = listen(talking, relabel=True)
    assert speakers(events, Final) == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_00"]
    assert speakers(events, SpeakerChange) == []
    last = [seen for seen in talking.seen if seen.model == "diarizer"][-1]
    assert last.options.get("mode", "recording") == "recording"
    assert last.samples == 5300 * 16


def test_speakers_that_nobody_wants_are_not_asked_for(talking: Any) -> None:
    assert speakers(listen(talking, diarize=False), Final) == [None] * 3
    assert not [seen for seen in talking.seen if seen.model == "diarizer"]


def test_a_server_without_a_diarizer(server: Any) -> None:
    assert speakers(listen(server), Final) == [None] * 3
    with pytest.raises(ModelNotFoundError, match="no diarizer"):
        listen(server, diarize=True)


def test_a_diarizer_that_fails_costs_no_word(
    talking: Any, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    talking.models["diarizer"].handler = lambda audio, options: tools.recognition([])
    with caplog.at_level(logging.WARNING):
        events = listen(talking)
    assert [event.segment.text for event in events if isinstance(event, Final)] == ["w7", "w8", "w7"]
    assert speakers(events, Final) == [None] * 3
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "words go on without speakers"
    ]


def test_leaving_while_the_diarizer_thinks_is_quick(talking: Any, gate: threading.Event) -> None:
    gate.clear()
    with SpeechClient(talking.url) as client:
        for event in client.stream(iter([say(TALK)])):
            if not isinstance(event, Final):
                break
    gate.set()
    assert talking.live()


@pytest.fixture(autouse=True)
def _open_at_the_end(gate: threading.Event) -> Iterator[None]:
    yield
    gate.set()
