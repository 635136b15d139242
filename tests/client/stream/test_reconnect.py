"""Servers that go away under a live stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from orchestrator.backend import faults
from orchestrator.client import Completed, Final, Reconnected, SpeechClient, StreamEvent
from orchestrator.client.stream import outage
from orchestrator.errors import (
    InferenceError,
    RemoteInferenceError,
    RequestTimeoutError,
    ServerUnavailableError,
    StreamLimitError,
    StreamLostError,
)
from orchestrator.settings import ClientSettings, Settings
from tests.client.stream.conftest import LOST
from tests.client.stream.simulated import gather, say

pytestmark = pytest.mark.usefixtures("short_waits")
WORDS = [(7, 200, 50), (8, 200, 600), (9, 150, 700), (10, 300, 400)]
TEXTS = ["w7 w8", "w9", "w10"]


def speaking(server: Any, act: Any, at_piece: int = 12) -> Iterator[np.ndarray]:
    """The words at ten times the speed of speech; ``act`` happens on the way."""
    audio = say(WORDS)
    for index, begin in enumerate(range(0, len(audio), 1280)):
        if index == at_piece:
            act()
        time.sleep(0.008)
        yield audio[begin : begin + 1280]


def until(done: Callable[[], object]) -> None:
    """Wait for what a busy machine may be late with."""
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until_begun(server: Any) -> None:
    """What is lost before it began is another case."""
    until(lambda: server.told)


def run(url: str, source: Any, settings: Settings | None = None, **options: Any) -> list[StreamEvent]:
    with SpeechClient(url, settings=settings) as client:
        return list(client.stream(source, **options))


def check(events: list[StreamEvent]) -> None:
    finals = [event for event in events if isinstance(event, Final)]
    assert [final.segment.text for final in finals] == TEXTS
    assert [final.utterance for final in finals] == [0, 1, 2]
    assert [(w.start, w.end) for f in finals for w in f.segment.words] == [
        (0.0, 0.2),
        (0.25, 0.45),
        (1.05, 1.2),
        (1.9, 2.2),
    ]
    assert isinstance(events[-1], Completed)
    assert events[-1].transcript.text == " ".join(TEXTS)


@pytest.mark.parametrize("at_piece", [1, 5, 12, 16, 25])
def test_a_server_that_dies_and_comes_back(server: Any, at_piece: int) -> None:
    def bounce() -> None:
        until_begun(server)
        server.die()
        threading.Timer(0.2, server.start).start()

    events = run(server.url, speaking(server, bounce, at_piece))
    check(events)
    told = [event for event in events if isinstance(event, Reconnected)]
    assert told
    assert all(event.after_s > 0 and 0 <= event.resent_s < 3 for event in told)
    assert len({chunk.sequence for chunk in server.chunks}) >= 2
    assert server.live(0)


def test_a_server_that_forgot_the_stream(server: Any) -> None:
    def forget() -> None:
        until_begun(server)
        server.sequences.clear()

    events = run(server.url, speaking(server, forget))
    check(events)
    assert [type(event) for event in events].count(Reconnected) == 1


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Connection reset by peer"),
        (grpc.StatusCode.INVALID_ARGUMENT, LOST),
        (grpc.StatusCode.INTERNAL, faults.encode(InferenceError("out of memory"))),
        (grpc.StatusCode.UNAVAILABLE, "Request for unknown model: 'ears' is not at ready state"),
    ],
)
def test_a_chunk_that_fails_is_sent_again(server: Any, code: grpc.StatusCode, details: str) -> None:
    def fail() -> None:
        until_begun(server)
        server.abort(code, details, 2)

    events = run(server.url, speaking(server, fail))
    check(events)
    assert server.live(0), "a stream whose answer was lost does not keep its place"


def test_a_model_that_is_not_there_yet_after_the_restart(server: Any) -> None:
    def bounce() -> None:
        until_begun(server)
        server.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        server.abort(grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'ears' is not found", 2)

    check(run(server.url, speaking(server, bounce)))


def test_no_answer_in_time(server: Any) -> None:
    settings = Settings(client=ClientSettings(stream_timeout_s=5))

    def hang() -> None:
        until_begun(server)
        server.chunk_faults.append(server.hang)
        threading.Timer(7, server.release.set).start()

    check(run(server.url, speaking(server, hang), settings))


def test_a_full_server_refuses_a_new_stream_and_takes_back_a_lost_one(server: Any) -> None:
    server.max_streams = 1
    started, enough = threading.Event(), threading.Event()

    def holding() -> Iterator[np.ndarray]:
        yield say(WORDS)
        started.set()
        enough.wait(120)

    with SpeechClient(server.url) as client:
        events: list[StreamEvent] = []
        holder = threading.Thread(target=lambda: events.extend(client.stream(holding())))
        holder.start()
        assert started.wait(60)
        assert server.live(1)
        with pytest.raises(StreamLimitError) as caught:
            list(client.stream(say(WORDS)))
        assert caught.value.host == server.url
        assert server.live(1), "the stream that runs does not suffer"
        # The first one is forgotten, and its place is taken by another for a while.
        server.sequences.clear()
        server.sequences[1] = next(iter([object()]))
        threading.Timer(0.3, server.sequences.clear).start()
        enough.set()
        holder.join(60)
    assert [event.segment.text for event in events if isinstance(event, Final)] == TEXTS


def test_a_server_that_stays_away(server: Any) -> None:
    settings = Settings(client=ClientSettings(stream_reconnect_s=0.3))
    events: list[StreamEvent] = []
    began = 0.0

    def die() -> None:
        nonlocal began
        until(lambda: any(isinstance(event, Final) for event in events))
        server.die()
        began = time.monotonic()

    with SpeechClient(server.url, settings=settings) as client, pytest.raises(ServerUnavailableError):
        gather(client.stream(speaking(server, die)), events)
    assert time.monotonic() - began < 60
    assert [event.segment.text for event in events if isinstance(event, Final)] == TEXTS[:1]


def test_few_tries(server: Any) -> None:
    settings = Settings(client=ClientSettings(stream_reconnects=0))

    def forget() -> None:
        until_begun(server)
        server.sequences.clear()

    with pytest.raises(StreamLostError):
        run(server.url, speaking(server, forget), settings)


def test_audio_that_the_model_fails_on_ends_the_stream(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again at the same place: not for two minutes."""
    monkeypatch.setattr(outage, "_FAILURES", 2)

    def poison() -> None:
        until_begun(server)
        server.abort(grpc.StatusCode.INTERNAL, "bad state", 1000)

    with pytest.raises(RemoteInferenceError, match="bad state"):
        run(server.url, speaking(server, poison))
    assert len(server.chunk_faults) > 990
    assert server.live(0)


def test_a_server_that_goes_away_under_the_first_chunk(server: Any) -> None:
    server.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed", 4)
    events = run(server.url, say(WORDS))
    check(events)
    assert not any(isinstance(event, Reconnected) for event in events), "it was not there before"
    assert server.live(0)


def test_a_server_that_stays_away_from_the_first_chunk_on(server: Any) -> None:
    server.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed", 1000)
    with pytest.raises(ServerUnavailableError):
        run(server.url, say(WORDS), Settings(client=ClientSettings(retries=2)))
    assert len([chunk for chunk in server.chunks if chunk.start]) == 3


def test_no_answer_to_the_first_chunk_is_told_at_once(server: Any) -> None:
    server.chunk_faults.append(server.hang)
    with pytest.raises(RequestTimeoutError):
        run(server.url, say(WORDS), timeout=0.2)
