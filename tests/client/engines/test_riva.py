"""The engine `riva` against the project's own Riva service, and against one that answers as NVIDIA's do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from typing import Any

import anyio
import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from riva.client.proto import riva_asr_pb2 as pb

from orchestrator.client import AsyncSpeechClient, Completed, Partial
from orchestrator.client import Final as FinalEvent
from orchestrator.client.engines import riva_messages as messages
from orchestrator.client.engines.riva import RivaTransport
from orchestrator.client.engines.riva_live import RivaResults
from orchestrator.client.retry import RetryPolicy
from orchestrator.contract import Task
from orchestrator.diarization.base import DiarizationOptions
from orchestrator.engines.base import RecognitionOptions
from orchestrator.errors import (
    AccessDeniedError,
    ConfigurationError,
    InvalidRequestError,
    MessageTooLargeError,
    ModelNotFoundError,
    OverloadedError,
    RemoteInferenceError,
    RequestTimeoutError,
    ServerUnavailableError,
    ServiceError,
    SpeechError,
)
from orchestrator.settings import Settings
from orchestrator.settings_engines import RivaSettings
from tests.client.engines.nim import Nim, alternative, word
from tests.gateway.riva.conftest import serving

RATE = 16_000
NOBODY = "127.0.0.1:9"
OFFLINE = "riva/parakeet-1.1b-en-US-asr-offline"


@pytest.fixture
def nim() -> Iterator[Nim]:
    server = Nim()
    yield server
    server.stop()


def audio(seconds: float) -> np.ndarray:
    return np.random.default_rng(2).normal(0, 0.1, int(seconds * RATE)).astype(np.float32)


def with_transport(url: str, act: Callable[[RivaTransport], Awaitable[Any]], **more: Any) -> Any:
    async def main() -> Any:
        retry = RetryPolicy(2, first_s=0.01)
        transport = RivaTransport(RivaSettings(url=url, **more), timeout_s=60, retry=retry)
        try:
            await transport.cards()
            return await act(transport)
        finally:
            await transport.close()

    return asyncio.run(main())


def recognize(nim: Nim, language: str | None = "en", seconds: float = 1.0, **more: Any) -> Any:
    options = RecognitionOptions(language=language)
    return with_transport(nim.url, lambda riva: riva.recognize(OFFLINE, audio(seconds), options), **more)


def test_cards_say_what_the_server_offers(nim: Nim) -> None:
    cards = with_transport(nim.url, lambda riva: riva.cards())
    assert [(card.name, card.task, card.languages) for card in cards] == [
        (OFFLINE, Task.RECOGNIZE, ("en-US",)),
        ("riva/parakeet-1.1b-unified-streaming", Task.STREAM, ("en-US",)),
        ("riva/parakeet-rnnt-multi", Task.RECOGNIZE, ("mul",)),
        ("riva/diarizer", Task.DIARIZE, ()),
    ]
    assert {card.engine for card in cards} == {"riva"}
    (only,) = with_transport(nim.url, lambda riva: riva.cards(), model="parakeet-1.1b-unified-streaming")
    assert only.task is Task.STREAM


def test_words_times_confidences_and_what_is_asked(nim: Nim) -> None:
    heard = recognize(nim, boosted_words=("Spark",), boost=40, metadata={"Function-Id": "f1"})
    assert [(one.text, one.start_ms, one.end_ms, one.confidence) for one in heard.words] == [
        ("Hello", 100, 400, 0.5),
        ("there", 500, 900, 0.5),
    ]
    assert (heard.language, heard.times_estimated) == ("en", False)
    (request,) = nim.recordings
    config = request.config
    assert (config.encoding, config.sample_rate_hertz, config.language_code) == (1, RATE, "en-US")
    assert config.model == "parakeet-1.1b-en-US-asr-offline"
    assert config.enable_word_time_offsets
    assert config.enable_automatic_punctuation
    assert not config.verbatim_transcripts
    (context,) = config.speech_contexts
    assert (list(context.phrases), context.boost) == (["Spark"], 40)
    assert len(request.audio) == 2 * RATE
    assert nim.metadata[-1]["function-id"] == "f1"


@pytest.mark.parametrize(
    ("language", "code"), [("en", "en-US"), ("EN_us", "en-US"), (None, "en-US"), ("de-DE", "de-DE")]
)
def test_languages_go_by_the_servers_own_codes(nim: Nim, language: str | None, code: str) -> None:
    recognize(nim, language)
    assert nim.recordings[0].config.language_code == code


def test_many_languages(nim: Nim) -> None:
    options = RecognitionOptions(language="fr")
    with_transport(nim.url, lambda riva: riva.recognize("riva/parakeet-rnnt-multi", audio(1), options))
    assert nim.recordings[0].config.language_code == "multi"


def test_words_without_times_are_spread_and_say_so(nim: Nim) -> None:
    nim.results = [pb.SpeechRecognitionResult(alternatives=[alternative("one two three ", language="")])]
    heard = recognize(nim, seconds=3)
    assert (heard.text, heard.times_estimated, heard.language) == ("one two three", True, "en")
    assert heard.words[0].start_ms == 0
    assert heard.words[-1].end_ms == 3000


def test_nothing_said_and_nothing_sent(nim: Nim) -> None:
    nim.results = []
    assert recognize(nim).words == ()
    assert recognize(nim, seconds=0).words == ()
    assert len(nim.recordings) == 1


def test_times_and_confidences_that_cannot_be(nim: Nim) -> None:
    odd = alternative(
        "a b c", word("a", 500, 100), word("b", -5, 300, confidence=-2), word(" c", 90, 4, 0, 9)
    )
    nim.results = [pb.SpeechRecognitionResult(alternatives=[odd]), pb.SpeechRecognitionResult()]
    heard = recognize(nim)
    assert [(one.text, one.start_ms, one.end_ms) for one in heard.words] == [
        ("a", 500, 500),
        ("b", 500, 500),
        ("c", 500, 500),
    ]
    assert [one.confidence for one in heard.words] == [0.5, 0.5, 1.0]


def test_speakers(nim: Nim) -> None:
    spoken = alternative(
        "a b c d",
        word("a", 0, 400, 2),
        word("b", 450, 900, 2),
        word("c", 800, 1500, 1),
        word("d", 5000, 5500, 1),
    )
    nim.results = [pb.SpeechRecognitionResult(alternatives=[spoken])]
    options = DiarizationOptions(max_speakers=3)
    found = with_transport(nim.url, lambda riva: riva.diarize("riva/diarizer", audio(6), options))
    assert [(turn.start_ms, turn.end_ms, turn.speaker) for turn in found.turns] == [
        (0, 900, 0),
        (800, 1500, 1),
        (5000, 5500, 1),
    ]
    assert [(turn.start_ms, turn.end_ms) for turn in found.exclusive] == [(0, 800), (800, 1500), (5000, 5500)]
    assert found.num_speakers == 2
    asked = nim.recordings[0].config.diarization_config
    assert (asked.enable_speaker_diarization, asked.max_speaker_count) == (True, 3)
    local = DiarizationOptions(mode="local")
    with pytest.raises(InvalidRequestError, match="live stream"):
        with_transport(nim.url, lambda riva: riva.diarize("riva/diarizer", audio(6), local))


@pytest.mark.parametrize(
    ("code", "details", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "speech_contexts: no engine", InvalidRequestError),
        (grpc.StatusCode.INVALID_ARGUMENT, "Error: Unavailable model requested", ModelNotFoundError),
        (grpc.StatusCode.UNIMPLEMENTED, "", InvalidRequestError),
        (grpc.StatusCode.UNAUTHENTICATED, "no key", AccessDeniedError),
        (grpc.StatusCode.PERMISSION_DENIED, "no", AccessDeniedError),
        (grpc.StatusCode.INTERNAL, "boom", RemoteInferenceError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max", MessageTooLargeError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", RequestTimeoutError),
    ],
)
def test_what_the_server_says_becomes_our_error(
    nim: Nim, code: grpc.StatusCode, details: str, error: type[SpeechError]
) -> None:
    nim.faults = [lambda context: None] + [lambda context: context.abort(code, details)] * 9
    with pytest.raises(error) as caught:
        recognize(nim)
    assert type(caught.value) is error
    assert caught.value.host == nim.url
    assert len(nim.recordings) == 1


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, ServerUnavailableError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, OverloadedError),
    ],
)
def test_what_time_heals_is_sent_again(nim: Nim, code: grpc.StatusCode, error: type[SpeechError]) -> None:
    nim.faults = [lambda context: None] + [lambda context: context.abort(code, "later")] * 2
    assert recognize(nim).text == "Hello there"
    nim.faults = [lambda context: None] + [lambda context: context.abort(code, "later")] * 9
    with pytest.raises(error):
        recognize(nim)


def test_nobody_there_and_no_address() -> None:
    with pytest.raises(ServerUnavailableError, match=r"riva|Riva"):
        with_transport(NOBODY, lambda riva: riva.cards())
    with pytest.raises(ConfigurationError, match="Riva"):
        with_transport("http://x", lambda riva: riva.cards())
    with pytest.raises(ConfigurationError, match="tls_ca"):
        with_transport("grpcs://h:1", lambda riva: riva.cards(), tls_ca="/no/such/file")


def test_too_much_for_a_message_is_refused_before_it_is_sent(nim: Nim) -> None:
    with pytest.raises(MessageTooLargeError):
        recognize(nim, seconds=40, max_message_bytes=1024**2)
    assert not nim.recordings


def test_a_limit_and_a_cancelled_call(nim: Nim) -> None:
    nim.faults = [lambda context: None, lambda context: time.sleep(1)]

    async def act(riva: RivaTransport) -> None:
        with anyio.move_on_after(0.2) as scope:
            await riva.recognize(OFFLINE, audio(1), RecognitionOptions())
        assert scope.cancelled_caught
        assert (await riva.recognize(OFFLINE, audio(1), RecognitionOptions())).text == "Hello there"

    with_transport(nim.url, act)


def test_a_closed_transport_says_so(nim: Nim) -> None:
    async def act(riva: RivaTransport) -> None:
        await riva.close()
        await riva.recognize(OFFLINE, audio(1), RecognitionOptions())

    with pytest.raises(ServiceError, match="closed"):
        with_transport(nim.url, act)


# Live streams, through the whole client.


def stream(url: str, seconds: float, **options: Any) -> list[Any]:
    settings = Settings.model_validate(
        {"riva": {"url": url, "verbatim": True}, "client": {"stream_reconnect_s": 60}}
    )

    async def main() -> list[Any]:
        async with AsyncSpeechClient(NOBODY, settings=settings) as client:
            live = client.stream(audio(seconds), pace="fast", language="en", **options)
            return [event async for event in live]

    return asyncio.run(main())


def said(events: list[Any]) -> str:
    return " ".join(event.segment.text for event in events if isinstance(event, FinalEvent))


def expected(count: int) -> str:
    return " ".join(f"w{number}" for number in range(count))


@pytest.mark.parametrize("silent", [False, True])
def test_a_live_stream(nim: Nim, silent: bool) -> None:
    nim.silent = silent
    events = stream(nim.url, 10.3, diarize=False)
    assert said(events) == expected(20)
    finals = [event for event in events if isinstance(event, FinalEvent)]
    assert [event.utterance for event in finals] == list(range(len(finals)))
    words = [one for event in finals for one in event.segment.words]
    assert (words[3].start, words[3].end) == (1.55, 1.95)
    partials = [event for event in events if isinstance(event, Partial) and event.segment.words]
    assert all(0 <= event.stability <= 1 for event in partials)
    if not silent:
        assert max(len(event.segment.words) for event in partials) >= 2, "stable and unstable parts together"
    assert isinstance(events[-1], Completed)
    transcript = events[-1].transcript
    assert (transcript.engine, transcript.language) == ("riva", "en")
    assert transcript.routing.model == "riva/parakeet-1.1b-unified-streaming"
    first, *rest = nim.streams[0]
    config = first.streaming_config
    assert config.interim_results
    assert config.config.language_code == "en-US"
    assert sum(len(one.audio_content) for one in rest) == int(10.3 * RATE) * 2
    assert nim.left.wait(60)


def test_endpointing_goes_along_where_it_is_not_the_usual(nim: Nim) -> None:
    stream(nim.url, 1, diarize=False, endpointing={"stop_history_ms": 1200}, partials=False)
    config = nim.streams[0][0].streaming_config
    assert not config.interim_results
    asked = config.config.endpointing_config
    assert [field.name for field, _ in asked.ListFields()] == ["stop_history"]
    assert asked.stop_history == 1200
    stream(nim.url, 1, diarize=False)
    assert not nim.streams[1][0].streaming_config.config.HasField("endpointing_config")


def test_a_live_stream_whose_server_breaks_it_off_loses_nothing(nim: Nim) -> None:
    passing: Callable[[Any], None] = lambda context: None  # noqa: E731
    gone: Callable[[Any], None] = lambda context: context.abort(grpc.StatusCode.UNAVAILABLE, "going")  # noqa: E731
    nim.faults = [passing] * 8 + [gone]
    events = stream(nim.url, 20, diarize=False)
    assert len(nim.streams) == 2
    again = sum(len(one.audio_content) for one in nim.streams[1][1:])
    assert again < 18 * RATE * 2, "only what was not final"
    words = [one for event in events if isinstance(event, FinalEvent) for one in event.segment.words]
    assert len({round(one.start, 1) for one in words}) >= 39, "every half second is covered"


def test_a_forced_end_of_an_utterance(nim: Nim) -> None:
    settings = Settings.model_validate({"riva": {"url": nim.url}})

    async def main() -> list[Any]:
        async def pieces() -> Any:
            for number in range(20):
                yield audio(0.16)
                if number == 12:
                    live.end_utterance()

        async with AsyncSpeechClient(NOBODY, settings=settings) as client:
            live = client.stream(pieces(), language="en", diarize=False)
            return [event async for event in live]

    events = asyncio.run(main())
    forced = [one for one in nim.streams[0] if one.runtime_config.get("force_eou") == "true"]
    assert len(forced) == 1
    assert said(events) == expected(6)


def test_the_projects_own_service() -> None:
    with serving() as riva:
        cards = with_transport(riva.uri, lambda transport: transport.cards())
        assert [card.name for card in cards] == ["riva/echo", "riva/ears", "riva/diarizer"]
        options = RecognitionOptions(language="en")
        heard = with_transport(
            riva.uri, lambda one: one.recognize("riva/echo", audio(2), options), verbatim=True
        )
        assert [one.text for one in heard.words][:2] == ["One", "two,"]
        assert heard.words[0].confidence == 0.5
        assert riva.service.asked[-1][1].model == "echo"
        events = stream(riva.uri, 2.0, diarize=False)
        assert said(events).split()[:5] == ["One", "two,", "three", "four", "Five."]
        assert len(said(events).split()) == 20


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.text("ab ", max_size=8),
            st.lists(st.tuples(st.integers(-9, 9000), st.integers(-9, 9000)), max_size=3),
            st.floats(0, 9, width=32),
            st.floats(-1, 2, width=32),
        ),
        max_size=8,
    )
)
def test_updates_keep_their_promises_whatever_a_server_says(answers: list[Any]) -> None:
    results, sent, final, next_number = RivaResults("en"), 0, 0, 0
    for number, (is_final, text, times, processed, stability) in enumerate(answers):
        sent += 1000
        response = pb.StreamingRecognizeResponse()
        response.results.add(
            alternatives=[alternative(text, *(word("x", start, end) for start, end in times))],
            is_final=is_final,
            audio_processed=processed,
            stability=stability,
        )
        update = results.take([response], sent, ended=number == len(answers) - 1)
        assert final <= update.final_ms <= sent
        final = update.final_ms
        for segment in update.segments:
            assert segment.utterance == next_number
            next_number += segment.final
            assert 0 <= segment.stability <= 1
            assert all(0 <= one.start_ms <= one.end_ms <= sent for one in segment.words)
            assert all(a.start_ms <= b.start_ms for a, b in pairwise(segment.words))
            assert [one.text for one in segment.words] == (["x"] * len(times) or text.split())


def test_long_silence_is_let_go() -> None:
    results = RivaResults("")
    assert results.take([], 29_000).final_ms == 0
    assert results.take([], 60_000).final_ms == 50_000
    partial = pb.StreamingRecognizeResponse()
    partial.results.add(alternatives=[alternative("words")], stability=0.5)
    assert results.take([partial], 61_000).final_ms == 50_000
    assert results.take([], 120_000).final_ms == 50_000, "its final is to come"


def test_without_the_package_the_error_names_the_command(nim: Nim, monkeypatch: Any) -> None:
    from orchestrator.engines import registry
    from orchestrator.errors import MissingDependencyError

    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'spark-speech\[gateway\]'"):
        AsyncSpeechClient(NOBODY, settings=Settings.model_validate({"riva": {"url": nim.url}}))


def test_names() -> None:
    assert messages.name_of("riva/a/b") == "a/b"
