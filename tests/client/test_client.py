"""The client against a server that speaks the real protocol."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from orchestrator.backend import faults
from orchestrator.client import AsyncSpeechClient, SpeechClient
from orchestrator.client.retry import RetryPolicy
from orchestrator.errors import (
    ConfigurationError,
    InvalidRequestError,
    MessageTooLargeError,
    ModelNotFoundError,
    ModelNotReadyError,
    OverloadedError,
    RemoteInferenceError,
    RequestTimeoutError,
    ServerUnavailableError,
    ServiceError,
    SpeechError,
    UnsupportedLanguageError,
)
from orchestrator.settings import ClientSettings, Settings

pytestmark = pytest.mark.usefixtures("short_waits")
Code = grpc.StatusCode


def settings(**client: Any) -> Settings:
    return Settings(client=ClientSettings(**client))


@pytest.fixture
def client(fake: Any) -> Any:
    with SpeechClient(fake.url) as made:
        yield made


def test_words_speakers_and_times_of_a_recording(client: Any, fake: Any, tools: Any) -> None:
    transcript = client.transcribe(tools.spoken(tools.TEXT), language="en-GB", num_speakers=2)
    assert transcript.text == tools.TEXT
    assert transcript.speakers == ("SPEAKER_00", "SPEAKER_01")
    assert [segment.text for segment in transcript.segments] == [
        "it was the best of",
        "times it was the worst of times it was the age of wisdom",
    ]
    assert transcript.words[0].start == pytest.approx(0.5, abs=0.01)
    assert transcript.engine == "parrot"
    assert transcript.language == "en"
    assert transcript.duration == pytest.approx(10.0)
    asked = {seen.model: seen.options for seen in fake.seen}
    assert asked == {"echo": {"language": "en-GB"}, "diarizer": {"num_speakers": 2}}


def test_long_audio_goes_in_windows_at_the_same_time(fake: Any, tools: Any) -> None:
    audio = np.concatenate([tools.spoken(tools.TEXT), np.zeros(16_000, np.float32)])
    with SpeechClient(fake.url, settings=settings(window_s=4.0, overlap_s=1.5)) as client:
        transcript = client.transcribe(audio, diarize=False)
    assert transcript.text == tools.TEXT
    sent = [seen.samples for seen in fake.seen]
    assert len(sent) >= 4
    assert max(sent) <= 4.0 * 16_000
    assert transcript.speakers == ()
    starts = [word.start for word in transcript.words]
    assert starts == pytest.approx([0.5 + 0.5 * i for i in range(18)], abs=0.02)


def test_the_models_own_window_is_kept(fake: Any, tools: Any) -> None:
    fake.models["echo"].parameters["max_window_s"] = "3"
    with SpeechClient(fake.url) as client:
        client.transcribe(tools.spoken(tools.TEXT), diarize=False)
    assert max(seen.samples for seen in fake.seen) <= 3 * 16_000


def test_requests_in_flight_are_bounded(fake: Any, tools: Any) -> None:
    with SpeechClient(fake.url, settings=settings(window_s=2.1, overlap_s=0.5, max_concurrency=3)) as client:
        client.transcribe(np.zeros(16_000 * 60, np.float32), diarize=False)
    assert len(fake.seen) > 20
    assert 1 < fake.most_at_once <= 3


def test_no_more_requests_are_in_flight_than_batches_can_hold(fake: Any, client: Any) -> None:
    fake.models["echo"].max_batch_size = 2
    client.transcribe(np.zeros(16_000 * 600, np.float32), diarize=False)
    assert len(fake.seen) > 20
    assert 1 < fake.most_at_once <= 4, "one batch in work and one that waits"


@pytest.mark.parametrize(
    ("inputs", "encoding", "sent"),
    [
        (("AUDIO", "PCM16", "OPTIONS"), "pcm16", "PCM16"),
        (("AUDIO", "PCM16", "OPTIONS"), "float32", "AUDIO"),
        (("AUDIO", "OPTIONS"), "pcm16", "AUDIO"),
    ],
)
def test_recognisers_get_sixteen_bits_where_they_take_them(
    fake: Any, tools: Any, inputs: tuple[str, ...], encoding: Any, sent: str
) -> None:
    fake.models["echo"].inputs = inputs
    with SpeechClient(fake.url, settings=settings(encoding=encoding)) as client:
        assert client.transcribe(tools.spoken(tools.TEXT)).text == tools.TEXT
    assert {seen.model: seen.inputs for seen in fake.seen} == {
        "echo": {sent},
        "diarizer": {"AUDIO"},
    }


def test_recognition_and_diarization_run_at_the_same_time(fake: Any, client: Any, tools: Any) -> None:
    both = threading.Barrier(2, timeout=60)

    def wait_for_the_other(handler: Any) -> Any:
        def handle(audio: Any, options: Any) -> Any:
            both.wait()
            return handler(audio, options)

        return handle

    for model in fake.models.values():
        model.handler = wait_for_the_other(model.handler)
    assert client.transcribe(tools.spoken(tools.TEXT)).text == tools.TEXT


def test_each_channel_is_a_speaker(fake: Any, client: Any, tools: Any) -> None:
    audio = tools.spoken("it was the", lead_s=2.0)
    stereo = np.stack([audio, np.roll(audio, int(1.7 * 16_000))])
    transcript = client.transcribe(stereo, channels="separate")
    assert [(segment.speaker, segment.text) for segment in transcript.segments] == [
        ("SPEAKER_00", "it was the"),
        ("SPEAKER_01", "it was the"),
    ]
    assert {word.channel for word in transcript.words} == {0, 1}
    assert {seen.model for seen in fake.seen} == {"echo"}


def test_speech_at_the_same_time_keeps_segments_whole_and_says_overlap(client: Any, tools: Any) -> None:
    audio = tools.spoken("it was the best")
    stereo = np.stack([audio, np.roll(audio, 4000)])
    transcript = client.transcribe(stereo, channels="separate")
    assert [segment.text for segment in transcript.segments] == ["it was the best", "it was the best"]
    assert all(word.overlap for word in transcript.words)


def test_server_away(tools: Any) -> None:
    with (
        SpeechClient("127.0.0.1:9", settings=settings(retries=1)) as client,
        pytest.raises(ServerUnavailableError, match=r"127\.0\.0\.1:9") as caught,
    ):
        client.transcribe(tools.spoken("it was"))
    assert caught.value.host == "127.0.0.1:9"
    assert "spark-speech up" in str(caught.value)


def test_a_request_is_sent_again_while_the_server_is_away(fake: Any, client: Any, tools: Any) -> None:
    fake.fail(Code.UNAVAILABLE, "Socket closed", times=2)
    assert client.transcribe(tools.spoken(tools.TEXT), diarize=False).text == tools.TEXT
    assert len(fake.seen) == 3


def test_a_server_that_dies_and_comes_back(fake: Any, tools: Any) -> None:
    fake.faults.append(fake.hang)

    def restart() -> None:
        fake.entered.wait(60)
        fake.stop()
        time.sleep(0.1)
        fake.start()

    with SpeechClient(fake.url) as client:
        other = threading.Thread(target=restart)
        other.start()
        assert client.transcribe(tools.spoken(tools.TEXT), diarize=False).text == tools.TEXT
        other.join()


def test_a_server_that_dies_and_stays_dead(fake: Any, tools: Any) -> None:
    fake.faults.append(fake.hang)
    with SpeechClient(fake.url, settings=settings(retries=2)) as client:
        other = threading.Thread(target=lambda: (fake.entered.wait(60), fake.stop()))
        other.start()
        with pytest.raises(ServerUnavailableError):
            client.transcribe(tools.spoken(tools.TEXT), diarize=False)
        other.join()


def test_the_models_load_after_the_server_is_back(fake: Any, client: Any, tools: Any) -> None:
    fake.fail(Code.UNAVAILABLE, "Socket closed")
    fake.fail(Code.NOT_FOUND, "Request for unknown model: 'echo' has no available versions")
    assert client.transcribe(tools.spoken(tools.TEXT), diarize=False).text == tools.TEXT


@pytest.mark.parametrize(
    ("code", "details", "kind", "attempts"),
    [
        (Code.NOT_FOUND, "Request for unknown model: 'echo' is not found", ModelNotFoundError, 1),
        (
            Code.NOT_FOUND,
            "Request for unknown model: 'echo' has no available versions",
            ModelNotReadyError,
            1,
        ),
        (Code.UNAVAILABLE, "'echo' version 1 is not at ready state", ModelNotReadyError, 3),
        (Code.UNAVAILABLE, "[request id: <id_unknown>] Exceeds maximum queue size", OverloadedError, 3),
        (Code.RESOURCE_EXHAUSTED, "out of memory", OverloadedError, 1),
        (
            Code.RESOURCE_EXHAUSTED,
            "SERVER: Received message larger than max (9 vs. 4)",
            MessageTooLargeError,
            1,
        ),
        (Code.INVALID_ARGUMENT, "unexpected inference input 'X' for model 'echo'", InvalidRequestError, 1),
        (Code.UNIMPLEMENTED, "", InvalidRequestError, 1),
        (
            Code.INTERNAL,
            "Failed to process the request(s) for model 'echo_0', message: RuntimeError: boom\n\nAt:\n x",
            RemoteInferenceError,
            1,
        ),
        (Code.INTERNAL, "Stub process 'echo_0' is not healthy.", RemoteInferenceError, 1),
        (
            Code.UNAVAILABLE,
            "This protocol is restricted, expecting header 'triton-grpc-protocol-x'",
            InvalidRequestError,
            1,
        ),
        (Code.UNKNOWN, "odd", RemoteInferenceError, 1),
    ],
)
def test_what_the_server_says_becomes_our_error(
    fake: Any, tools: Any, code: Any, details: str, kind: type[SpeechError], attempts: int
) -> None:
    fake.fail(code, details, times=5)
    with (
        SpeechClient(fake.url, settings=settings(retries=2)) as client,
        pytest.raises(kind) as caught,
    ):
        client.transcribe(tools.spoken("it was"), diarize=False)
    assert caught.value.host == fake.url
    assert caught.value.fix
    assert "\n" not in caught.value.message
    assert len(fake.seen) == attempts


def test_a_models_own_error_arrives_as_itself(fake: Any, client: Any, tools: Any) -> None:
    told = UnsupportedLanguageError("echo knows only en", fix="say en", model="echo")
    fake.fail(Code.INVALID_ARGUMENT, faults.encode(told))
    with pytest.raises(UnsupportedLanguageError, match="echo knows only en") as caught:
        client.transcribe(tools.spoken("it was"), diarize=False)
    assert (caught.value.fix, caught.value.host) == ("say en", fake.url)


def test_a_failing_diarizer_stops_the_recogniser(fake: Any, client: Any, tools: Any) -> None:
    fake.models["diarizer"].handler = lambda audio, options: {}
    release = threading.Event()
    fake.models["echo"].handler = lambda audio, options: (release.wait(90), tools.recognition([]))[1]
    started = time.monotonic()
    with pytest.raises(RemoteInferenceError, match="SPEAKER_EMBEDDING is missing"):
        client.transcribe(tools.spoken("it was"))
    release.set()
    assert time.monotonic() - started < 80


def test_a_limit_for_everything(fake: Any, client: Any, tools: Any) -> None:
    for limit_s in (0.4, 4, 20):  # a busy machine may not even have sent it within a short one
        fake.faults[:] = [fake.hang]
        with pytest.raises(RequestTimeoutError, match=rf"within {limit_s:g} s") as caught:
            client.transcribe(tools.spoken("it was"), diarize=False, timeout=limit_s)
        assert caught.value.host == fake.url
        if fake.cancelled.wait(5):
            break
    assert fake.cancelled.is_set(), "the server must learn that nobody waits any more"


def test_a_limit_for_one_request_grows_with_its_audio(fake: Any, tools: Any) -> None:
    fake.faults.append(fake.hang)
    with (
        SpeechClient(fake.url, settings=settings(timeout_s=0.2)) as client,
        pytest.raises(RequestTimeoutError, match=r"within 1\.2 s"),
    ):
        client.transcribe(np.zeros(16_000, np.float32), diarize=False)


def test_no_retry_beyond_the_callers_limit(fake: Any, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what happened, not that time ran out while waiting to try again."""
    monkeypatch.setattr(RetryPolicy, "wait_s", lambda policy, attempt: 60.0)
    fake.fail(Code.UNAVAILABLE, "Socket closed", times=9)
    with (
        SpeechClient(fake.url, settings=settings(retries=9)) as client,
        pytest.raises(ServerUnavailableError),
    ):
        client.transcribe(tools.spoken("it was"), diarize=False, timeout=30)


def test_cancelling_reaches_the_server(fake: Any, tools: Any) -> None:
    fake.faults.append(fake.hang)

    async def main() -> None:
        async with AsyncSpeechClient(fake.url) as client:
            task = asyncio.create_task(client.transcribe(tools.spoken("it was"), diarize=False))
            assert await asyncio.to_thread(fake.entered.wait, 60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(fake.cancelled.wait, 60)
            fake.release.set()
            assert (await client.transcribe(tools.spoken("it was"), diarize=False)).text == "it was"

    asyncio.run(main())


def test_threads_share_a_client(fake: Any, client: Any, tools: Any) -> None:
    with ThreadPoolExecutor(12) as threads:
        texts = list(
            threads.map(lambda _: client.transcribe(tools.spoken(tools.TEXT), diarize=False).text, range(40))
        )
    assert texts == [tools.TEXT] * 40


def test_two_clients_and_an_event_loop_side_by_side(fake: Any, tools: Any) -> None:
    async def main() -> str:
        async with AsyncSpeechClient(fake.url) as client:
            return (await client.transcribe(tools.spoken("it was"), diarize=False)).text

    with SpeechClient(fake.url) as one, SpeechClient(fake.url) as two, ThreadPoolExecutor(3) as threads:
        jobs = [threads.submit(c.transcribe, tools.spoken("it was"), diarize=False) for c in (one, two) * 5]
        assert asyncio.run(main()) == "it was"
        assert {job.result().text for job in jobs} == {"it was"}


def test_a_closed_client_says_so(fake: Any, tools: Any) -> None:
    client = SpeechClient(fake.url)
    client.models()
    client.close()
    client.close()
    with pytest.raises(ServiceError, match="closed"):
        client.models()


def test_closing_ends_calls_of_other_threads(fake: Any, tools: Any) -> None:
    fake.faults.append(fake.hang)
    client = SpeechClient(fake.url)
    with ThreadPoolExecutor(1) as threads:
        job = threads.submit(client.transcribe, tools.spoken("it was"), diarize=False)
        assert fake.entered.wait(60)
        client.close()
        with pytest.raises(ServiceError, match="closed"):
            job.result(60)
    assert fake.cancelled.wait(60)


def test_a_forgotten_client_does_not_keep_the_program(fake: Any) -> None:
    code = (
        "from orchestrator import SpeechClient\n"
        f"client = SpeechClient({fake.url!r})\n"
        "print([card.name for card in client.models()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "['diarizer', 'echo']\n", "")


def test_metadata_goes_along(fake: Any, tools: Any) -> None:
    with SpeechClient(fake.url, metadata={"Triton-Grpc-Protocol-Key": "secret"}) as client:
        client.transcribe(tools.spoken("it was"), diarize=False)
    assert fake.seen[0].metadata["triton-grpc-protocol-key"] == "secret"


def test_version(fake: Any, client: Any, tools: Any) -> None:
    assert client.transcribe(tools.spoken("it was"), diarize=False, model_version="1").text == "it was"
    with pytest.raises(ModelNotFoundError, match="no version 7 of the model echo"):
        client.transcribe(tools.spoken("it was"), diarize=False, model_version="7")


def test_unknown_language_and_engine(client: Any, tools: Any) -> None:
    with pytest.raises(UnsupportedLanguageError, match=r"'kn'; offered: de, en"):
        client.transcribe(tools.spoken("it was"), language="kn")
    with pytest.raises(ModelNotFoundError, match=r"'parot'.* Did you mean 'parrot'"):
        client.transcribe(tools.spoken("it was"), engine="parot")


def test_a_model_that_came_later_is_found(fake: Any, client: Any, tools: Any) -> None:
    with pytest.raises(ModelNotFoundError):
        client.transcribe(tools.spoken("it was"), engine="late", diarize=False)
    fake.models["late"] = fake.models["echo"]
    assert client.transcribe(tools.spoken("it was"), engine="late", diarize=False).text == "it was"


def test_a_model_that_is_not_loaded(fake: Any, client: Any, tools: Any) -> None:
    fake.models["parakeet"] = tools.Model(state="UNAVAILABLE", reason="Internal: ImportError: no nemo\n\nAt:")
    with pytest.raises(ModelNotReadyError, match="ImportError: no nemo") as caught:
        client.transcribe(tools.spoken("it was"), engine="parakeet")
    assert caught.value.model == "parakeet"


@pytest.mark.parametrize(
    "options",
    [
        {"num_speakers": 0},
        {"min_speakers": 3, "max_speakers": 2},
        {"num_speakers": 5, "max_speakers": 2},
        {"num_speakers": 2, "min_speakers": 3},
        {"timeout": 0},
        {"channels": "left"},
        {"model_version": "x"},
        {"speakers": 2},
    ],
)
def test_options_that_make_no_sense(client: Any, tools: Any, options: Any) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options)).split("_")[-1]) as caught:
        client.transcribe(tools.spoken("it was"), **options)
    assert ("the arguments are" in (caught.value.fix or "")) == ("speakers" in options)


@pytest.mark.parametrize("url", ["localhost", "http://localhost:8000", ":8001", "host:port"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not an address"):
        SpeechClient(url)


def test_more_than_a_message_can_carry_is_refused_before_it_is_sent(fake: Any, client: Any) -> None:
    hours = np.broadcast_to(np.float32(0), (16_000 * 3600 * 10,))
    from orchestrator.client.triton import TritonTransport
    from orchestrator.diarization.base import DiarizationOptions

    async def main() -> None:
        transport = TritonTransport(fake.url, timeout_s=5, max_concurrency=1)
        await transport.diarize("diarizer", hours, DiarizationOptions())

    with pytest.raises(MessageTooLargeError, match="600 minutes of audio for diarizer"):
        asyncio.run(main())
    assert fake.seen == []


def test_a_server_with_a_small_limit(fake: Any, tools: Any) -> None:
    fake.stop()
    fake.release.clear()
    fake.start(options=[("grpc.max_receive_message_length", 100_000)])
    with (
        SpeechClient(fake.url) as client,
        pytest.raises(MessageTooLargeError, match="larger than max") as caught,
    ):
        client.transcribe(tools.spoken(tools.TEXT), diarize=False)
    assert caught.value.host == fake.url


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("WORD_END_MS", ("INT32", [1, 1], np.array([1], np.int32).tobytes()), "differ in length"),
        ("WORD_END_MS", ("FP32", [1, 2], np.ones(2, np.float32).tobytes()), "is FP32 instead of INT32"),
        ("WORD_END_MS", ("INT32", [1, 2], b"abc"), "not a multiple"),
        ("WORD_START_MS", ("INT32", [1, 2], np.array([900, 5], np.int32).tobytes()), "times"),
        ("WORD", ("BYTES", [1, 2], b"\xff\x00\x00\x00x"), "not a list"),
        ("WORD", ("BYTES", [1, 2], b"\x01\x00\x00\x00\xff" * 2), "not a list"),
        ("LANGUAGE", ("BYTES", [1, 0], b""), "one value"),
    ],
)
def test_answers_that_break_the_contract(
    fake: Any, client: Any, tools: Any, name: str, tensor: Any, reason: str
) -> None:
    def handler(audio: Any, options: Any) -> Any:
        return {**tools.recognition([("a", 0, 1), ("b", 2, 3)]), name: tensor}

    fake.models["echo"].handler = handler
    with pytest.raises(RemoteInferenceError, match=reason) as caught:
        client.transcribe(tools.spoken("it was"), diarize=False)
    assert (caught.value.model, caught.value.host) == ("echo", fake.url)


def test_status_and_models(fake: Any, client: Any, tools: Any) -> None:
    fake.models["asleep"] = tools.Model(state="")
    status = client.server_status()
    assert (status.host, status.live, status.ready, status.version) == (fake.url, True, True, "2.51.0")
    cards = {card.name: card for card in client.models()}
    assert cards["echo"].languages == ("en", "de")
    assert cards["echo"].versions == ("1",)
    assert (cards["asleep"].ready, cards["asleep"].state) == (False, "UNLOADED")


def test_wait_ready(fake: Any, tools: Any) -> None:
    fake.models["slow"] = tools.Model(state="LOADING")
    with SpeechClient(fake.url) as client:
        with pytest.raises(ModelNotReadyError, match="slow"):
            client.wait_ready(["slow"], timeout=3)
        threading.Timer(0.1, lambda: setattr(fake.models["slow"], "state", "READY")).start()
        assert "slow" in {card.name for card in client.wait_ready(["slow"], timeout=60) if card.ready}
    with SpeechClient("127.0.0.1:9") as client, pytest.raises(ServerUnavailableError):
        client.wait_ready(timeout=0.3)


def test_importing_the_client_is_light() -> None:
    code = "import sys, orchestrator.client; print({'torch', 'nemo', 'pyannote', 'av'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "set()\n"
