"""Live streams that move from one engine to the next, with the audio that was not final."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from orchestrator.client import AsyncSpeechClient, Completed, Final, Reconnected, SpeechClient, StreamEvent
from orchestrator.errors import InvalidRequestError, RemoteInferenceError, ServerUnavailableError
from orchestrator.settings import Settings
from tests.client.stream.conftest import FakeStreams
from tests.client.stream.simulated import say
from tests.client.stream.test_reconnect import check, speaking, until, until_begun

pytestmark = pytest.mark.usefixtures("short_waits")
UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "the model is at not ready state")
FAILED = (grpc.StatusCode.INTERNAL, "boom")
INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "no such option")


class Two(FakeStreams):
    """A server with two streaming models; `broken` ones answer with a status."""

    def __init__(self) -> None:
        super().__init__()
        ears = self.models["ears"]
        self.models["spare"] = type(ears)(
            None, {**ears.parameters, "engine": "spare", "rank": "9", "chunk_ms": "160"}
        )
        self.broken: dict[str, tuple[grpc.StatusCode, str]] = {}
        self.asked: list[tuple[str, int]] = []
        self.answered: list[str] = []

    def _infer(self, request: Any, context: grpc.ServicerContext, fault: Any) -> Any:
        samples = sum(map(len, request.raw_input_contents)) // 2
        self.asked.append((request.model_name, samples))
        if request.model_name in self.broken:
            context.abort(*self.broken[request.model_name])
        response = super()._infer(request, context, fault)
        self.answered.append(request.model_name)
        return response


@pytest.fixture
def two() -> Iterator[Two]:
    made = Two()
    made.start()
    yield made
    made.stop()


def settings(**routing: Any) -> Settings:
    return Settings.model_validate(
        {"client": {"retries": 0}, "routing": {"failures": 2, "open_s": 60, "rules": [], **routing}}
    )


def run(server: Two, source: Any, made: Settings | None = None, **options: Any) -> list[StreamEvent]:
    with SpeechClient(server.url, settings=made or settings()) as client:
        return list(client.stream(source, diarize=False, **options))


@pytest.mark.parametrize("status", [UNAVAILABLE, FAILED, INVALID])
@pytest.mark.parametrize("at_piece", [1, 12, 25])
def test_a_stream_moves_with_what_is_not_final(two: Two, at_piece: int, status: Any) -> None:
    def fall() -> None:
        until_begun(two)
        two.broken["ears"] = status

    events = run(two, speaking(two, fall, at_piece))
    check(events)
    assert isinstance(events[-1], Completed)
    transcript = events[-1].transcript
    assert transcript.engine == "spare"
    assert transcript.routing is not None
    assert [one.engine for one in transcript.routing.failed] == ["shell"]
    moved = [samples for model, samples in two.asked if model == "spare"]
    assert all(samples % 2560 == 0 for samples in moved[:-1]), "in the new model's steps"
    assert ("ears", 0) in two.asked, "it was told that the stream is over, though it could not hear it"
    assert two.live(1), "the new one's is closed"


def test_the_first_engine_is_tried_again_before_the_stream_moves(two: Two) -> None:
    def hiccup() -> None:
        until_begun(two)
        two.abort(*FAILED)

    events = run(two, speaking(two, hiccup))
    check(events)
    assert isinstance(events[-1], Completed)
    assert events[-1].transcript.engine == "shell"
    assert any(isinstance(event, Reconnected) for event in events)
    assert {model for model, _ in two.asked} == {"ears"}


def test_a_stream_that_cannot_begin_begins_elsewhere(two: Two) -> None:
    two.broken["ears"] = UNAVAILABLE
    check(run(two, speaking(two, lambda: None)))
    assert [model for model, _ in two.asked].count("ears") <= 2


def test_the_next_stream_goes_to_the_one_that_works(two: Two) -> None:
    two.broken["ears"] = FAILED
    speech = say([(7, 200, 50)])

    async def main() -> None:
        async with AsyncSpeechClient(two.url, settings=settings()) as client:
            for _ in range(3):
                two.asked.clear()
                live = client.stream(speech, diarize=False, pace="fast")
                events = [event async for event in live]
                assert any(isinstance(event, Final) for event in events)
                assert live.routing is not None
                assert live.routing.engine == "spare"
            assert {model for model, _ in two.asked} == {"spare"}, "its breaker is open"

    asyncio.run(main())


def test_where_all_fail_the_first_one_says_why(two: Two) -> None:
    two.broken = {"ears": FAILED, "spare": INVALID}
    with pytest.raises(RemoteInferenceError, match="ears"):
        run(two, say([(7, 200, 50)]), pace="fast")
    two.broken = {"ears": INVALID, "spare": INVALID}
    with pytest.raises(InvalidRequestError, match="ears"):
        run(two, say([(7, 200, 50)]), pace="fast")


def test_an_engine_that_was_named_keeps_its_stream(two: Two) -> None:
    two.broken["ears"] = UNAVAILABLE
    with pytest.raises(Exception, match="ears"):
        run(two, say([(7, 200, 50)]), pace="fast", engine="ears")
    assert {model for model, _ in two.asked} == {"ears"}


def test_streams_move_back_and_forth_and_lose_nothing(two: Two) -> None:
    """Both come and go; each finds the other, and all is heard once."""

    def first() -> None:
        until_begun(two)
        two.broken = {"ears": FAILED}

    def pieces() -> Iterator[Any]:
        for number, piece in enumerate(speaking(two, first, 6)):
            if number == 18:
                until(lambda: "spare" in two.answered)
                time.sleep(0.1)  # longer than the first one is left alone
                two.broken = {"spare": FAILED}
            yield piece

    events = run(two, pieces(), settings(open_s=0.05, longest_open_s=0.05))
    check(events)
    assert isinstance(events[-1], Completed)
    assert events[-1].transcript.engine == "shell"
    assert events[-1].transcript.routing is not None
    assert [one.engine for one in events[-1].transcript.routing.failed] == ["shell", "spare"]


def test_a_server_that_is_gone_with_all_engines_is_looked_for(two: Two) -> None:
    def bounce() -> None:
        until_begun(two)
        two.die()
        threading.Timer(0.3, two.start).start()

    check(run(two, speaking(two, bounce)))

    made = settings().model_copy(
        update={"client": settings().client.model_copy(update={"stream_reconnect_s": 0.5})}
    )
    with pytest.raises(ServerUnavailableError):
        run(two, speaking(two, two.die), made)
