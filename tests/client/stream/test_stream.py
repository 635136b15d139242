"""Live streams end to end, over the real protocol, with a simulated recogniser."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from orchestrator.client import AsyncSpeechClient, Completed, Final, Partial, SpeechClient, StreamEvent
from orchestrator.client.stream import session
from orchestrator.client.stream.events import CaughtUp
from orchestrator.errors import (
    AudioNotFoundError,
    AudioValueError,
    ConfigurationError,
    ModelNotFoundError,
    ModelNotReadyError,
    ServerUnavailableError,
    ServiceError,
    SpeechError,
    UnsupportedLanguageError,
)
from orchestrator.settings import ClientSettings, Settings
from tests.client.stream.simulated import PER_MS, gather, say

pytestmark = pytest.mark.usefixtures("short_waits")
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


def one_chunk_at_a_time(server: Any) -> Iterator[np.ndarray]:
    """The words; the next chunk when the server has all before, so that none are put together."""
    audio = say(WORDS)
    for begin in range(0, len(audio), 80 * PER_MS):
        while sum(chunk.samples for chunk in server.chunks) < begin:
            time.sleep(0.001)
        yield audio[begin : begin + 80 * PER_MS]


def test_finals_partials_and_the_transcript(server: Any, client: SpeechClient) -> None:
    events = collect(client, one_chunk_at_a_time(server))
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


SOURCES = {
    "odd bytes": lambda: pieces(say(WORDS), 777),
    "bytearrays": lambda: (bytearray(piece) for piece in pieces(say(WORDS), 1000)),
    "one array": lambda: say(WORDS),
    "a list of arrays": lambda: [say(WORDS)[:1], say(WORDS)[1:5], np.zeros(0, np.int16), say(WORDS)[5:]],
    "floats": lambda: [say(WORDS).astype(np.float32) / 32_768],
    "doubles [1, n]": lambda: [(say(WORDS).astype(np.float64) / 32_768)[None, :]],
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources_of_all_kinds_say_the_same(server: Any, client: SpeechClient, name: str) -> None:
    assert texts(collect(client, SOURCES[name](), pace="fast")) == TEXTS


def test_an_asynchronous_iterator(server: Any) -> None:
    async def source() -> AsyncIterator[bytes]:
        for piece in pieces(say(WORDS), 3001):
            await asyncio.sleep(0)
            yield piece

    async def main() -> list[StreamEvent]:
        async with AsyncSpeechClient(server.url) as client:
            return [event async for event in client.stream(source())]

    assert texts(asyncio.run(main())) == TEXTS


def test_a_file_fast_and_in_real_time(server: Any, client: SpeechClient, tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    audio = say([(7, 200, 50), (8, 200, 600), (9, 100, 0)])
    soundfile.write(path, audio, 16_000, subtype="PCM_16")
    events = collect(client, path, pace="fast")
    assert texts(events) == ["w7 w8", "w9"]
    assert isinstance(events[-1], Completed)
    assert events[-1].transcript.source == "talk.wav"
    largest = max(chunk.samples for chunk in server.chunks)
    assert largest > 80 * PER_MS, "a file that is there is sent in larger pieces"
    server.chunks.clear()
    began = time.monotonic()
    assert texts(collect(client, str(path))) == ["w7 w8", "w9"]
    assert time.monotonic() - began >= len(audio) / 16_000


def test_another_sample_rate(server: Any, client: SpeechClient) -> None:
    tone = np.sin(2 * np.pi * 300 * np.arange(8000 // 2) / 8000).astype(np.float32) * 0.3
    collect(client, [tone[:1001], tone[1001:]], sample_rate=8000)
    assert sum(chunk.samples for chunk in server.chunks) == pytest.approx(8000, abs=32)


def test_requests_of_one_stream(server: Any, client: SpeechClient) -> None:
    collect(
        client, pieces(say(WORDS), 320), language="en", endpointing={"stop_history_ms": 500}, partials=False
    )
    first, *rest = server.chunks
    assert first.start
    assert first.options.language == "en"
    assert first.options.endpointing.stop_history_ms == 500
    assert not first.options.partials
    assert not any(chunk.start or chunk.options for chunk in rest)
    assert [chunk.end for chunk in server.chunks] == [False] * len(rest) + [True]
    assert len({chunk.sequence for chunk in server.chunks}) == 1
    assert first.sequence > 0
    assert all(chunk.samples % (80 * PER_MS) == 0 for chunk in server.chunks[:-1])
    assert sum(chunk.samples for chunk in server.chunks) == len(say(WORDS))


def test_no_partials(server: Any, client: SpeechClient) -> None:
    events = collect(client, pieces(say(WORDS), 999), partials=False)
    assert texts(events) == TEXTS
    assert not [event for event in events if isinstance(event, Partial)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([np.array([0.1, np.nan], np.float32)], "NaN"),
        ([np.array([np.inf, 0.0])], "infinite"),
        ([np.array([300.0, -300.0], np.float32)], "full scale"),
        ([np.zeros(10, np.int32)], "int32"),
        ([np.zeros((2, 10), np.float32)], "shape"),
        (["text"], "str"),
        ([b"a", np.zeros(4, np.int16)], "middle of a sample"),
    ],
)
def test_audio_that_is_none(server: Any, client: SpeechClient, source: Any, message: str) -> None:
    with pytest.raises(AudioValueError, match=message):
        collect(client, source)
    assert server.chunks == []


@pytest.mark.parametrize("source", [b"RIFF", 7, None])
def test_sources_that_are_none(client: SpeechClient, source: Any) -> None:
    with pytest.raises(AudioValueError, match="source of a stream cannot be"):
        client.stream(source)


def test_a_file_that_is_not_there(server: Any, client: SpeechClient) -> None:
    with pytest.raises(AudioNotFoundError, match="nowhere"):
        collect(client, "nowhere.wav")
    assert server.chunks == []


def test_bad_audio_later_on_loses_nothing_of_what_was_before(server: Any, client: SpeechClient) -> None:
    events: list[StreamEvent] = []
    with pytest.raises(AudioValueError, match="NaN"):
        gather(client.stream([say(WORDS), np.array([np.nan])]), events)
    assert texts(events) == TEXTS
    assert server.live(0)


def test_a_source_that_fails_itself(server: Any, client: SpeechClient) -> None:
    def source() -> Iterator[bytes]:
        yield say(WORDS).tobytes()
        raise RuntimeError("the cable came loose")

    events: list[StreamEvent] = []
    with pytest.raises(RuntimeError, match="cable"):
        gather(client.stream(source()), events)
    assert texts(events) == TEXTS


@pytest.mark.parametrize("source", [[], [b""], [np.zeros(0, np.float32)]])
def test_a_stream_without_audio(server: Any, client: SpeechClient, source: Any) -> None:
    events = collect(client, source)
    assert [type(event) for event in events] == [Completed]
    assert server.chunks == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"speed": 2}, ConfigurationError, "no argument speed"),
        ({"pace": "slow"}, ConfigurationError, "pace"),
        ({"chunk_ms": 1}, ConfigurationError, "chunk_ms"),
        ({"sample_rate": 10}, ConfigurationError, "sample_rate"),
        ({"endpointing": {"stop_history_ms": 0}}, ConfigurationError, "stop_history_ms"),
        ({"endpointing": {"stop": 0}}, ConfigurationError, "endpointing.stop"),
        ({"language": "kn"}, UnsupportedLanguageError, "'kn'; offered: en"),
        ({"engine": "whisper"}, ModelNotFoundError, "no streaming recogniser 'whisper'"),
    ],
)
def test_what_cannot_work(
    server: Any, client: SpeechClient, options: Any, error: type[SpeechError], message: str
) -> None:
    with pytest.raises(error, match=message):
        collect(client, say(WORDS), **options)
    assert server.chunks == []


def test_a_server_without_streams_and_one_that_is_not_there(server: Any, tools: Any) -> None:
    server.models["ears"] = tools.Model(state="UNAVAILABLE", reason="no weights")
    with SpeechClient(server.url) as client, pytest.raises(ModelNotReadyError, match="no weights"):
        collect(client, say(WORDS), engine="ears")
    del server.models["ears"]
    with SpeechClient(server.url) as client, pytest.raises(ModelNotFoundError, match="no streaming"):
        collect(client, say(WORDS))
    with SpeechClient("127.0.0.1:9") as client, pytest.raises(ServerUnavailableError):
        collect(client, say(WORDS))


def endless(paced_s: float = 0.01) -> Iterator[bytes]:
    while True:
        for piece in pieces(say(WORDS), 1600):
            time.sleep(paced_s)
            yield piece


def test_breaking_out_frees_the_place_on_the_server(server: Any, client: SpeechClient) -> None:
    for event in client.stream(endless()):
        if isinstance(event, Final):
            break
    assert server.live(0)
    assert server.chunks[-1].end


def test_an_error_in_the_loop_frees_the_place(server: Any, client: SpeechClient) -> None:
    def work() -> None:
        for _ in client.stream(endless()):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert server.live(0)


def test_closing_the_client_ends_its_streams(server: Any) -> None:
    client = SpeechClient(server.url)
    events = iter(client.stream(endless()))
    next(events)
    assert server.live(1)
    client.close()
    assert server.live(0)
    assert server.chunks[-1].end
    events.close()


@pytest.mark.parametrize("way", ["break", "cancel", "timeout", "aclose"])
def test_leaving_an_asynchronous_stream(server: Any, way: str) -> None:
    async def source() -> AsyncIterator[bytes]:
        for piece in endless(0):
            await asyncio.sleep(0.01)
            yield piece

    async def consume(client: AsyncSpeechClient) -> None:
        async for _ in client.stream(source()):
            if way == "break":
                break

    async def consume_for_a_while(client: AsyncSpeechClient) -> None:
        async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as tasks:
            tasks.create_task(consume(client))
            while not server.sequences:
                await asyncio.sleep(0.01)
            limit.reschedule(asyncio.get_running_loop().time() + 0.1)

    async def main() -> None:
        async with AsyncSpeechClient(server.url) as client:
            if way == "break":
                await consume(client)
            elif way == "cancel":
                task = asyncio.create_task(consume(client))
                while not server.sequences:
                    await asyncio.sleep(0.01)
                task.cancel()
                await asyncio.wait({task})
                assert task.cancelled()
            elif way == "timeout":
                with pytest.raises(TimeoutError):
                    await consume_for_a_while(client)
            else:
                stream = client.stream(source())
                await anext(stream)
                await stream.aclose()
                await stream.aclose()
                assert [event async for event in stream] == []
            ok = await asyncio.to_thread(server.live, 0)
            assert ok
            assert server.chunks[-1].end

    asyncio.run(main())


def test_stopping_makes_final_what_was_said(server: Any, client: SpeechClient) -> None:
    stream = client.stream(endless(0.002))
    events = []
    for event in stream:
        events.append(event)
        if isinstance(event, Partial) and event.utterance >= 1:  # a slow server may be past it
            stream.stop()
    assert isinstance(events[-1], Completed)
    assert texts(events)[:2] == TEXTS[:2]
    assert events[-1].transcript.text.split()[:3] == ["w7", "w8", "w9"]
    assert server.live(0)


def test_stopping_before_it_began(server: Any, client: SpeechClient) -> None:
    stream = client.stream(endless())
    stream.stop()
    time.sleep(0.05)
    assert [type(event) for event in stream] == [Completed]


def test_ending_an_utterance_by_hand(server: Any, client: SpeechClient) -> None:
    held = threading.Event()

    def source() -> Iterator[np.ndarray]:
        yield say([(5, 400, 0)])
        held.wait(60)
        yield say([(6, 400, 0)])

    stream = client.stream(source())
    events = []
    for event in stream:
        events.append(event)
        if isinstance(event, Partial) and event.utterance == 0:
            stream.end_utterance()
        if isinstance(event, Final) and event.utterance == 0:
            held.set()
    assert texts(events) == ["w5", "w6"]
    assert sum(bool(chunk.options and chunk.options.force_end_of_utterance) for chunk in server.chunks) == 1


def test_a_slow_server_gets_larger_chunks_and_the_source_waits(server: Any) -> None:
    server.slow_s = 0.1
    given: list[float] = []

    def source() -> Iterator[np.ndarray]:
        for _ in range(60):
            given.append(time.monotonic())
            yield say([(3, 100, 0)])

    settings = Settings(client=ClientSettings(stream_backlog_s=1.0))
    with SpeechClient(server.url, settings=settings) as client:
        collect(client, source())
    sizes = [chunk.samples // PER_MS for chunk in server.chunks]
    assert max(sizes) > 80
    assert max(sizes) <= 2000
    assert given[-1] - given[0] > 0.3, "the source was read ahead of the server without bound"
    sent = np.cumsum(sizes)
    for index, at_s in enumerate(given):
        arrived = sum(1 for chunk in server.chunks if chunk.at_s < at_s)
        before = sent[arrived - 1] if arrived else 0
        assert index * 100 <= before + 1000 + 200


def test_a_caller_that_does_not_read_stops_the_source(server: Any, client: SpeechClient) -> None:
    given = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal given
        for _ in range(10_000):
            given += 1
            yield say([(3, 400, 600)])

    events = iter(client.stream(source()))
    next(events)
    first = 0
    while given != first:
        first = given
        time.sleep(0.3)
    assert given < 400
    events.close()
    assert server.live(0)


def test_a_source_that_is_silent_keeps_its_place(
    server: Any, client: SpeechClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_SILENCE_S", 0.05)

    def signs_of_life(count: int) -> None:
        while sum(not chunk.samples for chunk in server.chunks) < count:
            time.sleep(0.01)

    def source() -> Iterator[np.ndarray]:
        yield say([(5, 400, 0)])
        signs_of_life(8)
        server.sequences.clear()  # even where the server forgot it
        signs_of_life(16)
        yield say([(6, 400, 0)])

    events = collect(client, source(), caught_up=True)
    assert " ".join(texts(events)) == "w5 w6"
    assert [type(event) for event in events].count(CaughtUp) < 12
    assert len({chunk.sequence for chunk in server.chunks}) == 2


def test_a_stream_that_is_closed_under_its_reader(server: Any) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield say([(5, 400, 0)]).tobytes()
        await asyncio.sleep(60)

    async def main() -> None:
        async with AsyncSpeechClient(server.url) as client:
            stream = client.stream(source())

            async def read() -> None:
                async for _ in stream:
                    pass

            reading = asyncio.create_task(read())
            while not server.sequences:
                await asyncio.sleep(0.01)
            await stream.aclose()
            with pytest.raises(ServiceError, match="closed while it was read"):
                await reading

    asyncio.run(main())
    assert server.live(0)
