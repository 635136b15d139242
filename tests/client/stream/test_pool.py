"""Several servers behind one client: what is lost at one goes on at another."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from orchestrator.backend import faults
from orchestrator.client import (
    AsyncSpeechClient,
    Completed,
    Final,
    Reconnected,
    SpeechClient,
    StreamEvent,
    pool,
)
from orchestrator.errors import (
    ConfigurationError,
    InferenceError,
    RemoteInferenceError,
    ServerUnavailableError,
    StreamLimitError,
)
from orchestrator.settings import ClientSettings, Settings
from tests.client.conftest import TEXT, Model, hear, spoken
from tests.client.stream.conftest import FakeStreams
from tests.client.stream.simulated import say

WORDS = [(7, 200, 50), (8, 200, 600), (9, 150, 700), (10, 300, 400)]
TEXTS = ["w7 w8", "w9", "w10"]
pytestmark = pytest.mark.usefixtures("short_waits")
QUICK = Settings(client=ClientSettings(retries=1, timeout_s=60))


class FakeServer(FakeStreams):
    """One that says how it is only while ``answers`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()
        self.answers.set()

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.answers.wait(120)
        return super().ServerReady(request, context)


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeServer]]:
    """Two servers with the models `ears` and `echo`."""
    monkeypatch.setattr(pool, "CHECK_S", 0.1)
    servers = []
    for _ in range(2):
        server = FakeServer()
        server.models["echo"] = Model(
            hear(TEXT), {"task": "recognize", "engine": "parrot", "languages": "en", "max_window_s": "30"}
        )
        server.start()
        servers.append(server)
    yield servers
    for server in servers:
        server.answers.set()
        server.stop()


def urls(servers: list[FakeServer]) -> list[str]:
    return [server.url for server in servers]


def speaking(act: Callable[[], None], at_piece: int) -> Iterator[np.ndarray]:
    """The words at ten times the speed of speech; ``act`` happens on the way."""
    audio = say(WORDS)
    for index, begin in enumerate(range(0, len(audio), 1280)):
        if index == at_piece:
            act()
        time.sleep(0.008)
        yield audio[begin : begin + 1280]


def owner(servers: list[FakeServer]) -> FakeServer:
    """The server that has the stream."""
    (found,) = [server for server in servers if server.sequences]
    return found


def until_begun(servers: list[FakeServer]) -> None:
    while not any(server.told for server in servers):
        time.sleep(0.005)


def texts(events: list[StreamEvent]) -> list[str]:
    return [event.segment.text for event in events if isinstance(event, Final)]


@pytest.mark.parametrize("at_piece", [1, 5, 12, 16, 25])
def test_a_stream_goes_on_at_the_other_server(pair: list[FakeServer], at_piece: int) -> None:
    def kill() -> None:
        until_begun(pair)
        owner(pair).die()

    with SpeechClient(urls(pair)) as client:
        events = list(client.stream(speaking(kill, at_piece)))
    assert texts(events) == TEXTS
    assert [event.utterance for event in events if isinstance(event, Final)] == [0, 1, 2]
    assert [(w.start, w.end) for e in events if isinstance(e, Final) for w in e.segment.words] == [
        (0.0, 0.2),
        (0.25, 0.45),
        (1.05, 1.2),
        (1.9, 2.2),
    ]
    assert isinstance(events[-1], Completed)
    assert [type(event) for event in events].count(Reconnected) == 1
    assert all(server.chunks for server in pair), "both had a part of it"
    assert all(server.live(0) for server in pair)


def test_all_chunks_of_a_sequence_go_to_one_server(pair: list[FakeServer]) -> None:
    """Streams are spread evenly, and each stays where it began."""
    all_there = threading.Event()

    def together() -> None:
        """One that ended before the last one began would leave its place to that one."""
        while not all_there.is_set():
            if sum(len(server.sequences) for server in pair) == 4:
                all_there.set()
            time.sleep(0.005)

    with SpeechClient(urls(pair)) as client, ThreadPoolExecutor(4) as threads:
        said = list(threads.map(lambda _: texts(list(client.stream(speaking(together, 20)))), range(4)))
    assert said == [TEXTS] * 4
    sequences = [{chunk.sequence for chunk in server.chunks} for server in pair]
    assert [len(found) for found in sequences] == [2, 2]
    assert not sequences[0] & sequences[1]
    assert all(server.live(0) for server in pair)


def test_a_full_server_is_passed_over(pair: list[FakeServer]) -> None:
    for server in pair:
        server.max_streams = 1
    pair[0].sequences[1] = next(iter([object()]))  # type: ignore[assignment]
    with SpeechClient(urls(pair)) as client:
        for _ in range(3):
            assert texts(list(client.stream(say(WORDS), pace="fast"))) == TEXTS
        pair[1].sequences[1] = pair[0].sequences[1]
        with pytest.raises(StreamLimitError):
            list(client.stream(say(WORDS), pace="fast"))


def test_a_server_that_fails_a_stream_is_left(pair: list[FakeServer]) -> None:
    def poison() -> None:
        until_begun(pair)
        owner(pair).abort(grpc.StatusCode.INTERNAL, faults.encode(InferenceError("out of memory")), 1000)

    with SpeechClient(urls(pair)) as client:
        assert texts(list(client.stream(speaking(poison, 12)))) == TEXTS
    assert all(server.live(0) for server in pair)


def test_recordings_are_spread_and_go_on_when_a_server_dies(pair: list[FakeServer]) -> None:
    """Windows of one recording are shared; those under a dead server are sent to the other."""
    audio = np.tile(spoken(TEXT), 12)
    with SpeechClient(urls(pair), settings=QUICK) as client:
        whole = client.transcribe(audio, sample_rate=16_000, diarize=False)
        assert all(server.seen for server in pair)
        pair[0].faults.append(lambda _: pair[0].die())
        again = client.transcribe(audio, sample_rate=16_000, diarize=False)
    assert again.text == whole.text
    assert len(whole.words) > 100


def test_a_request_without_a_server_is_tried_again_and_told(pair: list[FakeServer]) -> None:
    with SpeechClient(urls(pair), settings=QUICK) as client:
        client.transcribe(spoken(TEXT), sample_rate=16_000, diarize=False)
        for server in pair:
            server.die()
        with pytest.raises(ServerUnavailableError):
            client.transcribe(spoken(TEXT), sample_rate=16_000, diarize=False)
        with pytest.raises(ServerUnavailableError):
            list(client.stream(say(WORDS), pace="fast"))
        pair[1].start()
        client.wait_ready(["echo"], timeout=20)
        assert client.transcribe(spoken(TEXT), sample_rate=16_000, diarize=False).text == TEXT


def test_a_failure_of_the_model_is_not_sent_on(pair: list[FakeServer]) -> None:
    """Audio that breaks one model must not be carried to all of them."""
    for server in pair:
        server.fail(grpc.StatusCode.INTERNAL, "bad audio", 5)
    with SpeechClient(urls(pair), settings=QUICK) as client, pytest.raises(RemoteInferenceError):
        client.transcribe(spoken(TEXT), sample_rate=16_000, diarize=False)
    assert sum(len(server.seen) for server in pair) == 1


def test_what_the_servers_offer_together(pair: list[FakeServer]) -> None:
    del pair[0].models["echo"]
    pair[1].models["ears"].state = "LOADING"
    with SpeechClient(urls(pair)) as client:
        assert client.host == f"{pair[0].url}, {pair[1].url}"
        assert [(card.name, card.ready) for card in client.models()] == [("ears", True), ("echo", True)]
        assert client.server_status().ready
        assert client.transcribe(spoken(TEXT), sample_rate=16_000, diarize=False).text == TEXT
        assert texts(list(client.stream(say(WORDS), pace="fast"))) == TEXTS
    assert pair[0].chunks
    assert not pair[1].chunks, "it has no streaming model that is ready"


def test_servers_are_watched(pair: list[FakeServer]) -> None:
    """One that dies without work is found out, and one that comes back is used."""

    async def scene() -> None:
        async with AsyncSpeechClient(urls(pair)) as client:
            await client.models()
            assert client.outstanding == {pair[0].url: 0, pair[1].url: 0}
            pair[0].die()
            await until(lambda: list(client.outstanding) == [pair[1].url])
            pair[0].start()
            await until(lambda: len(client.outstanding) == 2)
            stream = client.stream(say(WORDS))
            async with stream:
                await anext(aiter(stream))
                assert sorted(client.outstanding.values()) == [0, 1]
            await until(lambda: sum(client.outstanding.values()) == 0)

    asyncio.run(scene())


def test_a_server_that_hangs_is_away(pair: list[FakeServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections and says nothing: it gets no new work, and nobody waits for it."""
    monkeypatch.setattr(pool, "_CHECK_LIMIT_S", 3)
    hung = pair[0]

    async def scene() -> None:
        async with AsyncSpeechClient(urls(pair)) as client:
            await client.models()
            hung.answers.clear()
            await until(lambda: list(client.outstanding) == [pair[1].url])
            chunks, seen = len(hung.chunks), len(hung.seen)
            for _ in range(3):
                await client.transcribe(spoken(TEXT), sample_rate=16_000, diarize=False)
                async for _ in client.stream(say(WORDS), pace="fast"):
                    pass
            assert (len(hung.chunks), len(hung.seen)) == (chunks, seen)
            hung.answers.set()
            await until(lambda: len(client.outstanding) == 2)

    asyncio.run(scene())


def test_cancelled_work_gives_its_place_back(pair: list[FakeServer]) -> None:
    async def scene() -> None:
        async with AsyncSpeechClient(urls(pair)) as client:
            for server in pair:
                server.faults += [server.hang] * 4
            work = asyncio.create_task(client.transcribe(spoken(TEXT), sample_rate=16_000, diarize=False))
            await until(lambda: any(server.entered.is_set() for server in pair))
            assert sum(client.outstanding.values()) == 1
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            assert sum(client.outstanding.values()) == 0
            (asked,) = [server for server in pair if server.entered.is_set()]
            assert await asyncio.to_thread(asked.cancelled.wait, 60)

    asyncio.run(scene())


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_wrong_addresses() -> None:
    with pytest.raises(ConfigurationError, match="named twice"):
        SpeechClient(["127.0.0.1:8001", "127.0.0.1:8001"])
    with pytest.raises(ConfigurationError, match="no upstream"):
        SpeechClient([])
    with pytest.raises(ConfigurationError, match="not an address"):
        SpeechClient(["127.0.0.1:8001", "spark"])
