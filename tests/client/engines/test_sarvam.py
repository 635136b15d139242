"""The engine `sarvam` against a server that keeps to the service's documented contract."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import anyio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from orchestrator.client import AsyncSpeechClient
from orchestrator.client.engines import sarvam_messages as messages
from orchestrator.client.engines.pace import Pace
from orchestrator.client.engines.sarvam import SarvamTransport
from orchestrator.client.engines.sarvam_failures import retry_after_s
from orchestrator.client.retry import RetryPolicy
from orchestrator.engines.base import RecognitionOptions
from orchestrator.errors import (
    AccessDeniedError,
    ConfigurationError,
    InvalidRequestError,
    MessageTooLargeError,
    OverloadedError,
    RemoteInferenceError,
    RequestTimeoutError,
    ServerUnavailableError,
    ServiceError,
    SpeechError,
    UnsupportedLanguageError,
)
from orchestrator.settings import Settings
from orchestrator.settings_engines import SarvamSettings
from tests.client.engines.sarvam_service import (
    KEY,
    Request,
    SarvamService,
    body,
    cut,
    half,
    hang_up,
    shape,
)

RATE = 16_000
NOBODY = "127.0.0.1:9"
KANNADA = RecognitionOptions(language="kn-IN")


@pytest.fixture
def service() -> Iterator[SarvamService]:
    server = SarvamService()
    yield server
    server.stop()


def speech(seconds: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 0.1, int(seconds * RATE))
    return noise.astype(np.float32)


def settings(service: SarvamService, **more: Any) -> SarvamSettings:
    given = {"api_key": KEY, "url": service.url, "requests_per_minute": 6000, "timeout_s": 60} | more
    return SarvamSettings(**given)


def ask(
    service: SarvamService,
    samples: np.ndarray | None = None,
    options: RecognitionOptions = KANNADA,
    *,
    first_s: float = 0.01,
    clock: datetime | None = None,
    **more: Any,
) -> Any:
    async def main() -> Any:
        made = settings(service, **more)
        retry = RetryPolicy(made.retries, first_s=first_s)
        transport = SarvamTransport(made, retry=retry, clock=lambda: clock or datetime.now(UTC))
        try:
            return await transport.recognize("sarvam", speech(5) if samples is None else samples, options)
        finally:
            await transport.close()

    return asyncio.run(main())


def test_words_of_a_recording(service: SarvamService) -> None:
    heard = ask(service)
    assert heard.text == shape("transcribe")["transcript"]
    assert (heard.language, heard.times_estimated, heard.language_confidence) == ("kn", True, None)
    first, second = heard.words[:2], heard.words[2:]
    assert 500 - 20 <= first[0].start_ms <= first[-1].end_ms <= 2000 + 20
    assert 2500 - 20 <= second[0].start_ms <= second[-1].end_ms <= 4500 + 20
    (request,) = service.seen
    assert request.fields == {
        "model": "saaras:v3",
        "mode": "transcribe",
        "language_code": "kn-IN",
        "with_timestamps": "true",
    }
    assert request.seconds == 5
    assert request.headers["api-subscription-key"] == KEY


def test_the_language_is_found_out(service: SarvamService) -> None:
    service.answer = lambda request: shape("detected")
    heard = ask(service, options=RecognitionOptions())
    assert service.seen[0].fields["language_code"] == "unknown"
    assert (heard.language, heard.language_confidence) == ("or", 0.87)

    async def detect() -> Any:
        transport = SarvamTransport(settings(service))
        try:
            return await transport.detect_language("sarvam", speech(60))
        finally:
            await transport.close()

    found = asyncio.run(detect())
    assert (found.language, found.confidence) == ("or", 0.87)
    assert service.seen[-1].seconds == 28


def test_silence_says_nothing(service: SarvamService) -> None:
    service.answer = lambda request: shape("silence")
    assert ask(service, np.zeros(RATE, np.float32)).words == ()
    assert ask(service, np.zeros(0, np.float32)).words == ()
    assert len(service.seen) == 1, "nothing is not sent"


def test_keyterms_and_mode(service: SarvamService) -> None:
    ask(service, model="saaras:v4", mode="verbatim", keyterms=("ಬೆಂಗಳೂರು", "New Delhi"))
    assert json.loads(service.seen[0].fields["keyterms"]) == ["ಬೆಂಗಳೂರು", "New Delhi"]
    assert service.seen[0].fields["mode"] == "verbatim"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("403", AccessDeniedError),
        ("400", InvalidRequestError),
        ("413", MessageTooLargeError),
        ("422", InvalidRequestError),
        ("429 quota", AccessDeniedError),
    ],
)
def test_what_trying_again_cannot_help(service: SarvamService, status: str, error: type[SpeechError]) -> None:
    service.fail(status, times=9)
    with pytest.raises(error) as caught:
        ask(service)
    assert len(service.seen) == 1
    assert caught.value.host == service.url.removeprefix("http://")
    assert shape("errors")[status]["error"]["message"] in str(caught.value)


def test_a_wrong_key_is_said_and_not_shown(service: SarvamService, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(AccessDeniedError, match=r"does not accept the key") as caught:
        ask(service, api_key="sk_wrong_98765")
    assert "sarvam.api_key" in str(caught.value.fix)
    assert "98765" not in f"{caught.value!r} {caplog.text} {caught.value.__cause__!r}"
    for key in ("", "  ", "sk\n987651", "ಕೀ987651"):
        with pytest.raises(ConfigurationError) as refused:
            ask(service, api_key=key)
        assert "987651" not in f"{refused.value!r} {refused.value.__cause__!r}"


@pytest.mark.parametrize("fault", ["500", "503", "429"])
def test_what_time_heals_is_sent_again(service: SarvamService, fault: str) -> None:
    service.fail(fault, times=3)
    assert len(ask(service).words) == 5
    assert [request.seconds for request in service.seen] == [5.0] * 4, "the same audio each time"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (half, ServerUnavailableError),
        (cut, RemoteInferenceError),
        (hang_up, ServerUnavailableError),
        (body(b""), RemoteInferenceError),
        (body(b"<html>hello</html>"), RemoteInferenceError),
        (body(b'{"transcript": null}'), RemoteInferenceError),
        (body(b'{"request_id": "x"}'), RemoteInferenceError),
        (body(b"[1, 2]"), RemoteInferenceError),
        (body(b'{"transcript": "a", "language_probability": 7}'), RemoteInferenceError),
        (
            body(
                b'{"transcript": "a", "timestamps":'
                b' {"words": ["a"], "start_time_seconds": [], "end_time_seconds": [1]}}'
            ),
            RemoteInferenceError,
        ),
        (body(b'{"transcript": "' + b"a" * 5_000_000 + b'"}'), RemoteInferenceError),
        (body(b"oops", 500), RemoteInferenceError),
        (body(b'{"error": "text"}', 502), ServerUnavailableError),
    ],
)
def test_half_answers(service: SarvamService, fault: Any, error: type[SpeechError]) -> None:
    service.faults = [fault]
    assert len(ask(service).words) == 5, "the next answer is whole"
    service.faults = [fault] * 9
    with pytest.raises(error):
        ask(service, retries=1)
    assert not service.faults[7:], "tried twice"


def test_no_half_answer_is_quoted(service: SarvamService) -> None:
    service.faults = [body(b'{"transcript": ["a secret word"]}')]
    with pytest.raises(RemoteInferenceError) as caught:
        ask(service, retries=0)
    assert "secret" not in str(caught.value)


def test_a_service_that_is_not_there(service: SarvamService) -> None:
    with pytest.raises(ServerUnavailableError, match=r"127\.0\.0\.1:9"):
        ask(service, url="http://127.0.0.1:9", retries=1)


def test_a_time_out(service: SarvamService) -> None:
    service.delay_s = 20
    with pytest.raises(RequestTimeoutError, match=r"within 0.2 s"):
        ask(service, timeout_s=0.2, retries=1)


def test_a_retry_after_is_waited_for(service: SarvamService) -> None:
    service.fail("429", Retry_After="1")
    ask(service)
    before, after = (request.at_s for request in service.seen)
    assert after - before >= 0.95


def test_a_retry_after_holds_the_other_requests_back_too(service: SarvamService) -> None:
    service.fail("429", Retry_After="1")

    async def main() -> None:
        transport = SarvamTransport(settings(service), retry=RetryPolicy(2, first_s=0.01))

        async with anyio.create_task_group() as group:
            group.start_soon(transport.recognize, "sarvam", speech(1), KANNADA)
            with anyio.fail_after(60):
                while not transport._pace._closed_until:  # the refusal is not there yet
                    await anyio.sleep(0.01)
            for _ in range(2):
                group.start_soon(transport.recognize, "sarvam", speech(1), KANNADA)
        await transport.close()

    asyncio.run(main())
    first, *rest = sorted(request.at_s for request in service.seen)
    assert len(rest) == 3
    assert min(rest) - first >= 0.95


def test_a_retry_after_that_is_too_long_is_not_waited_for(service: SarvamService) -> None:
    service.fail("429", Retry_After="3600")
    began = time.monotonic()
    with pytest.raises(OverloadedError, match="Rate limit exceeded") as caught:
        ask(service)
    assert time.monotonic() - began < 600
    assert "requests_per_minute" in str(caught.value.fix)


def test_no_wait_beyond_the_callers_limit(service: SarvamService) -> None:
    service.fail("429", times=5, Retry_After="30")

    async def main() -> None:
        transport = SarvamTransport(settings(service))
        try:
            with anyio.fail_after(25):
                await transport.recognize("sarvam", speech(1), KANNADA)
        finally:
            await transport.close()

    with pytest.raises(OverloadedError):
        asyncio.run(main())


def test_dates_of_a_retry_after() -> None:
    now = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert retry_after_s("Tue, 01 Jan 2030 12:00:30 GMT", now) == 30
    assert retry_after_s("Tue, 01 Jan 2030 11:00:00 GMT", now) == 0
    assert retry_after_s(" 7 ", now) == 7
    assert retry_after_s("soon", now) is None
    assert retry_after_s(None, now) is None


@given(st.text())
def test_any_retry_after(value: str) -> None:
    waited = retry_after_s(value, datetime(2030, 1, 1, tzinfo=UTC))
    assert waited is None or waited >= 0


@given(
    st.floats(1, 600),
    st.lists(st.floats(0, 30), min_size=1, max_size=50),
)
def test_no_more_than_the_rate(per_minute: float, gaps: list[float]) -> None:
    pace, now, sent = Pace(per_minute), 0.0, []
    for gap in gaps:
        now += gap
        sent.append(now + pace.take(now))
    burst = max(1.0, per_minute / 6)
    assert all(before <= after + 1e-6 for before, after in pairwise(sent))
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            allowed = burst + (sent[last] - sent[first]) * per_minute / 60
            assert last - first + 1 <= allowed + 1 + 1e-6


def test_requests_keep_to_the_rate_and_the_bound(service: SarvamService) -> None:
    service.delay_s = 0.1

    async def main() -> None:
        transport = SarvamTransport(settings(service, requests_per_minute=240, max_concurrency=2))
        async with anyio.create_task_group() as group:
            for _ in range(44):
                group.start_soon(transport.recognize, "sarvam", speech(0.2), KANNADA)
        await transport.close()

    asyncio.run(main())
    times = sorted(request.at_s for request in service.seen)
    assert len(times) == 44
    assert service.most_at_once == 2
    assert times[-1] - times[0] > 0.9, "40 at once, then 4 a second"


def test_what_the_service_cannot_do(service: SarvamService) -> None:
    with pytest.raises(UnsupportedLanguageError, match="'de'"):
        ask(service, options=RecognitionOptions(language="de"))
    with pytest.raises(MessageTooLargeError, match=r"more than the 28 s"):
        ask(service, speech(29))
    assert not service.seen


def test_a_closed_transport_says_so(service: SarvamService) -> None:
    async def main() -> None:
        transport = SarvamTransport(settings(service))
        await transport.close()
        await transport.recognize("sarvam", speech(1), KANNADA)

    with pytest.raises(ServiceError, match="closed"):
        asyncio.run(main())


def test_a_proxy_that_is_no_address(service: SarvamService) -> None:
    with pytest.raises(ConfigurationError, match=r"sarvam.proxy"):
        SarvamTransport(settings(service, proxy="nonsense://x"))


def test_the_environments_proxy_is_not_used(service: SarvamService, monkeypatch: Any) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert ask(service).words


@given(st.binary(max_size=300))
def test_any_body_is_an_answer_or_a_value_error(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        messages.parse(content)


@given(
    texts=st.lists(st.text("abc ಕ.", max_size=12), max_size=6),
    times=st.lists(st.tuples(st.floats(-5, 40), st.floats(-5, 40)), min_size=6, max_size=6),
    seconds=st.sampled_from([0.0, 0.01, 0.5, 2.0]),
    with_times=st.booleans(),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_words_are_in_order_and_inside_whatever_the_times(
    texts: list[str], times: list[tuple[float, float]], seconds: float, with_times: bool
) -> None:
    chunks = messages.Timestamps(
        words=texts,
        start_time_seconds=[start for start, _ in times[: len(texts)]],
        end_time_seconds=[end for _, end in times[: len(texts)]],
    )
    answer = messages.Answer(transcript=" ".join(texts), timestamps=chunks if with_times else None)
    samples = speech(seconds)
    heard = messages.recognition(answer, samples, "kn")
    assert [word.text for word in heard.words] == " ".join(texts).split(), "nothing is lost"
    end_ms = len(samples) * 1000 // RATE
    assert all(0 <= word.start_ms <= word.end_ms <= end_ms for word in heard.words)
    assert all(before.start_ms <= after.start_ms for before, after in pairwise(heard.words))


def test_times_of_other_words_are_not_used() -> None:
    chunks = messages.Timestamps(words=["one two"], start_time_seconds=[3.0], end_time_seconds=[4.0])
    answer = messages.Answer(transcript="uno dos tres", timestamps=chunks)
    heard = messages.recognition(answer, speech(4), "en")
    assert heard.text == "uno dos tres"
    assert heard.words[0].start_ms < 500


def test_a_long_recording_is_cut_and_routed_by_its_language(service: SarvamService) -> None:
    """Through the client, without any Triton: the rule for Kannada finds the engine."""

    def answer(request: Request) -> dict[str, Any]:
        return {"request_id": "r", "transcript": "ಒಂದು", "language_code": "kn-IN"}

    service.answer = answer
    made = Settings(sarvam=settings(service))

    async def main() -> Any:
        async with AsyncSpeechClient(NOBODY, settings=made) as client:
            return await client.transcribe(speech(100), language="kn", diarize=False)

    transcript = asyncio.run(main())
    assert len(service.seen) >= 4
    assert all(request.seconds <= 28 for request in service.seen)
    assert sum(request.seconds for request in service.seen) >= 100
    assert (transcript.engine, transcript.language, transcript.times_estimated) == ("sarvam", "kn", True)
    assert transcript.routing is not None
    assert transcript.routing.rule == "kn-IN -> sarvam"


def test_without_a_key_the_engine_is_not_there() -> None:
    from orchestrator.client.engines import outside

    assert outside.transports(Settings()) == {}


def test_without_httpx_the_error_names_the_command(service: SarvamService, monkeypatch: Any) -> None:
    from orchestrator.engines import registry
    from orchestrator.errors import MissingDependencyError

    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'spark-speech\[sarvam\]'"):
        AsyncSpeechClient(NOBODY, settings=Settings(sarvam=settings(service)))
