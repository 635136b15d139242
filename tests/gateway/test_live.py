"""Live streams of the gateway over the real protocol, with a simulated recogniser."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from orchestrator.client.stream.events import Completed, Final, Partial, StreamEvent
from orchestrator.errors import ModelNotFoundError, ServerUnavailableError, StreamLimitError
from orchestrator.gateway.live import LiveJob
from orchestrator.gateway.service import TritonService
from orchestrator.settings import ClientSettings, Settings
from tests.client.stream.conftest import CHUNK_MS, FakeStreams
from tests.client.stream.simulated import say

SETTINGS = Settings(client=ClientSettings(stream_reconnects=0))
CHUNK = CHUNK_MS * 16


@pytest.fixture
def server() -> Iterator[FakeStreams]:
    made = FakeStreams()
    made.start()
    yield made
    made.stop()


def floats(words: list[tuple[int, int, int]]) -> Any:
    return say(words).astype(np.float32) / 32_768


def texts(events: Sequence[StreamEvent], kind: Any) -> list[str]:
    return [event.segment.text for event in events if isinstance(event, kind)]


def run(server: FakeStreams, scene: Any, job: LiveJob = LiveJob()) -> Any:  # noqa: B008
    async def main() -> Any:
        service = TritonService(SETTINGS, server.url)
        live = service.stream(job)
        try:
            return await asyncio.wait_for(scene(live), 60)
        finally:
            await live.close()
            await live.close()
            await service.close()

    result = asyncio.run(main())
    assert server.live(0), "a stream was left open"
    return result


def test_each_piece_is_answered_with_what_it_changed(server: FakeStreams) -> None:
    async def scene(live: Any) -> list[Sequence[StreamEvent]]:
        audio = floats([(7, 240, 0), (8, 240, 0)])
        pieces = [audio[begin : begin + CHUNK] for begin in range(0, len(audio), CHUNK)]
        assert live.language is None
        first = await live.hear(pieces[0])
        assert live.language == "en"
        return [first, *[await live.hear(piece) for piece in pieces[1:]], await live.finish(audio[:0])]

    *heard, last = run(server, scene)
    assert [texts(events, Partial) for events in heard[:5]] == [[], ["w7"], ["w7"], ["w7"], ["w7 w8"]]
    assert texts(last, Final) == ["w7 w8"]
    assert isinstance(last[-1], Completed)


def test_what_fills_no_step_is_answered_at_once(server: FakeStreams) -> None:
    async def scene(live: Any) -> None:
        for _ in range(50):
            assert list(await live.hear(np.zeros(10, np.float32))) == []
        assert server.chunks == []
        assert list(await live.hear(np.zeros(0, np.float32))) == []
        await live.hear(np.zeros(CHUNK - 500, np.float32))
        assert [chunk.samples for chunk in server.chunks] == [CHUNK]

    run(server, scene)


def test_an_utterance_ends_by_hand(server: FakeStreams) -> None:
    async def scene(live: Any) -> None:
        assert texts(await live.hear(floats([(7, 200, 0)]), end_utterance=True), Final) == ["w7"]
        assert texts(await live.hear(floats([(8, 200, 0)])), Final) == []
        assert texts(await live.hear(np.zeros(0, np.float32), end_utterance=True), Final) == ["w8"]
        assert list(await live.hear(np.zeros(0, np.float32), end_utterance=True)) == []
        assert texts(await live.finish(floats([(9, 100, 0)])), Final) == ["w9"]

    run(server, scene)


def test_without_partials(server: FakeStreams) -> None:
    async def scene(live: Any) -> None:
        events = [*await live.hear(floats([(7, 300, 0)])), *await live.finish(floats([]))]
        assert [type(event) for event in events] == [Final, Completed]

    run(server, scene, LiveJob(partials=False))


def test_a_stream_that_is_given_up(server: FakeStreams) -> None:
    async def scene(live: Any) -> None:
        await live.hear(floats([(7, 300, 0)]))
        assert server.live(1)

    run(server, scene)
    assert server.chunks[-1].end


def test_no_audio_at_all(server: FakeStreams) -> None:
    async def scene(live: Any) -> None:
        assert [type(event) for event in await live.finish(floats([]))] == [Completed]

    run(server, scene)
    assert server.chunks == []


def test_a_full_server(server: FakeStreams) -> None:
    server.max_streams = 0

    async def scene(live: Any) -> None:
        await live.hear(floats([(7, 300, 0)]))

    with pytest.raises(StreamLimitError):
        run(server, scene)


def test_a_model_that_there_is_not(server: FakeStreams) -> None:
    async def scene(live: Any) -> None:
        await live.finish(floats([(7, 300, 0)]))

    with pytest.raises(ModelNotFoundError, match="whisper"):
        run(server, scene, LiveJob(model="whisper"))


def test_a_server_that_dies(server: FakeStreams) -> None:
    async def scene(live: Any) -> None:
        await live.hear(floats([(7, 300, 0)]))
        server.die()
        await live.hear(floats([(7, 300, 0)]))

    with pytest.raises(ServerUnavailableError):
        run(server, scene)
