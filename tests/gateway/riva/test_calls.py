"""Calls over a real port with the installed client library."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import riva.client
import riva.client.proto.riva_asr_pb2 as pb
import soundfile
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from orchestrator.client.catalog import ModelCard
from orchestrator.contract import Task
from orchestrator.engines.endpointing import EndpointingOptions
from orchestrator.errors import (
    AudioDecodeError,
    ModelNotFoundError,
    ModelNotReadyError,
    RemoteInferenceError,
    ServerUnavailableError,
    SpeechError,
    StreamLimitError,
    StreamLostError,
    UnsupportedLanguageError,
)
from orchestrator.gateway.riva.server import RIVA

RATE = 16_000
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def wav(
    seconds: float = 1.0, rate: int = RATE, channels: int = 1, kind: str = "WAV", subtype: str = "PCM_16"
) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, (round(seconds * rate), channels)).clip(-1, 1)
    soundfile.write(buffer, noise, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


@pytest.fixture
def asr(riva: Any) -> Iterator[Any]:
    """The library's service over the running server."""
    auth = _auth(riva.uri)
    yield auth
    auth.auth.channel.close()


def _auth(uri: str, **options: Any) -> Any:
    from riva.client import ASRService, Auth

    return ASRService(Auth(uri=uri, **options))


def config(**fields: Any) -> Any:
    return pb.RecognitionConfig(**{"verbatim_transcripts": True} | fields)


def streaming(interim: bool = True, **fields: Any) -> Any:
    return pb.StreamingRecognitionConfig(config=config(**fields), interim_results=interim)


def pcm(samples: int) -> bytes:
    return bytes(2 * samples)


def fails(call: Callable[[], Any], code: grpc.StatusCode, words: str = "") -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is code, caught.value.details()  # type: ignore[attr-defined]
    details = str(caught.value.details())  # type: ignore[attr-defined]
    assert words in details, details
    return details


def drained(responses: Iterable[Any]) -> Callable[[], list[Any]]:
    return lambda: list(responses)


# Recognize


def test_a_recording(asr: Any, riva: Any) -> None:
    answer = asr.offline_recognize(wav(2.0), config(enable_automatic_punctuation=True))
    first, second = answer.results
    assert first.alternatives[0].transcript == "One two, three four Five. "
    assert "".join(result.alternatives[0].transcript for result in (first, second)) == (
        "One two, three four Five. One two, three four Five. "
    )
    assert first.alternatives[0].confidence == pytest.approx(0.5)
    assert list(first.alternatives[0].language_code) == ["en"]
    assert first.channel_tag == 1
    assert first.audio_processed == pytest.approx(2.0)
    assert not first.alternatives[0].words
    samples, job = riva.service.asked[0]
    assert samples.shape == (32_000,)
    assert (job.model, job.language, job.speakers) == ("auto", None, "none")


def test_words_with_times(asr: Any) -> None:
    answer = asr.offline_recognize(wav(), config(enable_word_time_offsets=True))
    said = answer.results[1].alternatives[0].words
    assert [(w.word, w.start_time, w.end_time, w.speaker_tag, w.language_code) for w in said][:2] == [
        ("one", 1500, 1600, 0, "en"),
        ("two", 1600, 1700, 0, "en"),
    ]
    assert said[0].confidence == pytest.approx(0.5)


def test_speakers_count_from_one(asr: Any, riva: Any) -> None:
    riva.service.words = tuple(
        word.model_copy(update={"speaker": name})
        for word, name in zip(riva.service.words, "bbaabbaccc", strict=True)
    )
    answer = asr.offline_recognize(
        wav(),
        config(
            diarization_config=pb.SpeakerDiarizationConfig(
                enable_speaker_diarization=True, max_speaker_count=3
            )
        ),
    )
    tags = [word.speaker_tag for result in answer.results for word in result.alternatives[0].words]
    assert tags == [1, 1, 2, 2, 1, 1, 2, 3, 3, 3]
    assert (riva.service.asked[0][1].speakers, riva.service.asked[0][1].max_speakers) == ("required", 3)


def test_speakers_that_were_not_asked_for_are_not_told(asr: Any, riva: Any) -> None:
    riva.service.words = tuple(w.model_copy(update={"speaker": "b"}) for w in riva.service.words)
    answer = asr.offline_recognize(wav(), config(enable_word_time_offsets=True))
    assert {word.speaker_tag for word in answer.results[0].alternatives[0].words} == {0}


def test_endpointing_cuts_a_recording(asr: Any) -> None:
    longer = pb.EndpointingConfig(stop_history=2000)
    assert len(asr.offline_recognize(wav(), config(endpointing_config=longer)).results) == 1


def test_silence_has_one_empty_result(asr: Any, riva: Any) -> None:
    riva.service.words = ()
    (only,) = asr.offline_recognize(wav(), config()).results
    assert only.alternatives[0].transcript == ""


def test_model_and_language_are_passed_on(asr: Any, riva: Any) -> None:
    asr.offline_recognize(wav(), config(model="parrot", language_code="en-US"))
    assert (riva.service.asked[0][1].model, riva.service.asked[0][1].language) == ("parrot", "en-US")


@pytest.mark.parametrize(
    ("encoding", "rate", "channels", "data", "samples"),
    [
        (0, 0, 0, wav(rate=44_100), 16_000),
        (0, 44_100, 1, wav(rate=44_100), 16_000),
        (0, 0, 2, wav(channels=2), 16_000),
        (1, 0, 0, wav(), 16_000),
        (1, 16_000, 0, pcm(16_000), 16_000),
        (1, 8_000, 2, pcm(16_000), 16_000),
        (0, 0, 0, wav(kind="FLAC"), 16_000),
        (2, 0, 0, wav(kind="FLAC"), 16_000),
        (3, 8_000, 0, bytes(8_000), 16_000),
        (20, 8_000, 0, bytes(8_000), 16_000),
        (0, 0, 0, wav(subtype="ULAW"), 16_000),
    ],
)
def test_encodings(
    asr: Any, riva: Any, encoding: int, rate: int, channels: int, data: bytes, samples: int
) -> None:
    given = config(encoding=encoding, sample_rate_hertz=rate, audio_channel_count=channels)
    asr.offline_recognize(data, given)
    assert riva.service.asked[0][0].shape == (samples,)
    list(asr.streaming_response_generator([data], pb.StreamingRecognitionConfig(config=given)))
    assert riva.service.lives[0].samples == pytest.approx(samples, abs=2)


BAD_AUDIO: list[tuple[dict[str, Any], bytes, str]] = [
    ({}, b"", "audio: it is empty"),
    ({}, b"no audio " * 100, "its encoding was not given"),
    ({"encoding": 1}, pcm(100), "say sample_rate_hertz"),
    ({"encoding": 1, "sample_rate_hertz": 16_000}, pcm(100) + b"x", "no whole number"),
    ({"sample_rate_hertz": 8000}, wav(), "sample_rate_hertz is 8000"),
    ({"audio_channel_count": 2}, wav(), "audio_channel_count is 2"),
    ({"encoding": 4}, wav(), "said to be OGGOPUS and is not: it is WAV"),
    ({}, wav()[:300], "cut off"),
]


@pytest.mark.parametrize(("fields", "data", "words"), BAD_AUDIO)
def test_audio_that_cannot_be_used(asr: Any, riva: Any, fields: Any, data: bytes, words: str) -> None:
    fails(lambda: asr.offline_recognize(data, config(**fields)), INVALID, words)
    assert riva.service.asked == []


def test_a_recording_that_is_too_long(serve: Any) -> None:
    with serve(max_duration_s=1.5) as riva:
        fails(lambda: _auth(riva.uri).offline_recognize(wav(2.0), config()), INVALID, "longer than 1.5 s")


def test_what_a_field_asks_for_in_vain(asr: Any) -> None:
    boosted = config(speech_contexts=[pb.SpeechContext(phrases=["Ada"], boost=20)])
    fails(lambda: asr.offline_recognize(wav(), boosted), grpc.StatusCode.UNIMPLEMENTED, "speech_contexts")
    live = pb.StreamingRecognitionConfig(config=boosted)
    fails(
        drained(asr.streaming_response_generator([wav()], live)),
        grpc.StatusCode.UNIMPLEMENTED,
        "speech_contexts",
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelNotFoundError("There is no whisper.", model="whisper"), INVALID),
        (ModelNotFoundError("There is no diarizer."), grpc.StatusCode.UNAVAILABLE),
        (ModelNotReadyError("It sleeps."), grpc.StatusCode.UNAVAILABLE),
        (ServerUnavailableError("It is gone."), grpc.StatusCode.UNAVAILABLE),
        (StreamLostError("It is lost."), grpc.StatusCode.UNAVAILABLE),
        (StreamLimitError("It is full."), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (UnsupportedLanguageError("Not Kannada."), INVALID),
        (AudioDecodeError("Not audio."), INVALID),
        (RemoteInferenceError("It failed."), grpc.StatusCode.INTERNAL),
    ],
)
def test_errors_have_their_status(asr: Any, riva: Any, error: SpeechError, code: grpc.StatusCode) -> None:
    riva.service.error = error
    fails(lambda: asr.offline_recognize(wav(), config()), code, error.message)
    fails(drained(asr.streaming_response_generator([wav()], streaming())), code, error.message)


def test_the_request_id_comes_back(asr: Any) -> None:
    request = pb.RecognizeRequest(config=config(), audio=wav())
    assert not asr.stub.Recognize(request).HasField("id")
    request.id.value = "mine-1"
    assert asr.stub.Recognize(request).id.value == "mine-1"


def test_a_deadline_cancels_the_work(asr: Any, riva: Any) -> None:
    riva.service.hold = threading.Event()
    request = pb.RecognizeRequest(config=config(), audio=wav())
    # Long enough for the work to have begun.
    fails(lambda: asr.stub.Recognize(request, timeout=5), grpc.StatusCode.DEADLINE_EXCEEDED)
    until(lambda: riva.service.cancelled == 1)
    until(lambda: riva.requests.running == 0)


def until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# StreamingRecognize


def test_a_stream_has_one_response_a_message(asr: Any, riva: Any) -> None:
    """No more, so that clients can take times; the last finals come with one of their own."""
    data = wav(0.75)
    chunks = [data[at : at + 640] for at in range(0, len(data), 640)]
    responses = list(asr.streaming_response_generator(chunks, streaming(enable_automatic_punctuation=True)))
    assert len(responses) == len(chunks) + 1
    results = [result for response in responses for result in response.results]
    finals = [result for result in results if result.is_final]
    assert "".join(final.alternatives[0].transcript for final in finals) == (
        "One two, three four Five. One two, "
    )
    partials = [result for result in results if not result.is_final]
    assert partials[0].alternatives[0].transcript == "One "
    assert {partial.stability for partial in partials} == {0.25}
    assert {final.stability for final in finals} == {1.0}
    processed = [result.audio_processed for result in results]
    assert processed == sorted(processed)
    assert processed[-1] == pytest.approx(0.75)
    assert riva.service.lives[0].job.partials


def test_without_interim_results(asr: Any, riva: Any) -> None:
    responses = list(asr.streaming_response_generator([wav(0.7)], streaming(interim=False)))
    assert all(result.is_final for response in responses for result in response.results)
    assert not riva.service.lives[0].job.partials


def test_words_are_in_finals_only(asr: Any) -> None:
    responses = list(asr.streaming_response_generator([wav(0.7)], streaming(enable_word_time_offsets=True)))
    results = [result for response in responses for result in response.results]
    assert all(bool(result.alternatives[0].words) == result.is_final for result in results)
    assert [w.start_time for w in results[0].alternatives[0].words] == [0, 100, 200, 300, 400]


def test_spoken_numbers_of_a_stream(asr: Any) -> None:
    written = streaming(verbatim_transcripts=False)
    responses = list(asr.streaming_response_generator([wav(0.5)], written))
    (final,) = [result for response in responses for result in response.results if result.is_final]
    assert final.alternatives[0].transcript == "1 2 3 4 5 "
    assert list(final.alternatives[0].language_code) == ["en"]


def test_speakers_of_a_stream(asr: Any, riva: Any) -> None:
    wanted = pb.SpeakerDiarizationConfig(enable_speaker_diarization=True)
    responses = list(asr.streaming_response_generator([wav(1.0)], streaming(diarization_config=wanted)))
    finals = [result for response in responses for result in response.results if result.is_final]
    assert [{w.speaker_tag for w in final.alternatives[0].words} for final in finals] == [{1}, {2}]
    assert riva.service.lives[0].job.max_speakers == 8


def test_endpointing_reaches_the_stream(asr: Any, riva: Any) -> None:
    given = pb.EndpointingConfig(stop_history=320)
    list(asr.streaming_response_generator([wav(0.1)], streaming(endpointing_config=given)))
    assert riva.service.lives[0].job.endpointing == EndpointingOptions(stop_history_ms=320)


def talk(asr: Any, *messages: Any) -> list[Any]:
    return list(asr.stub.StreamingRecognize(iter(messages), timeout=60))


def first(**fields: Any) -> Any:
    return pb.StreamingRecognizeRequest(streaming_config=streaming(**fields))


def audio(data: bytes, **fields: Any) -> Any:
    return pb.StreamingRecognizeRequest(audio_content=data, **fields)


RAW = {"encoding": 1, "sample_rate_hertz": RATE}


def test_an_utterance_can_be_ended_by_hand(asr: Any) -> None:
    responses = talk(
        asr,
        first(**RAW),
        audio(pcm(3200)),
        audio(pcm(1600), runtime_config={"force_eou": "true"}),
        audio(pcm(1600), runtime_config={"force_eou": "false"}),
        audio(b"", runtime_config={"force_eou": "true"}),
        pb.StreamingRecognizeRequest(runtime_config={"force_eou": "true"}),
    )
    finals = [[r.is_final for r in response.results] for response in responses]
    assert finals == [[False], [True], [False], [True], []]


def test_the_id_of_each_message_comes_back(asr: Any) -> None:
    responses = talk(
        asr,
        first(**RAW),
        audio(pcm(1600), id={"value": "a"}),
        audio(pcm(1600)),
        audio(pcm(1600), id={"value": "c"}),
    )
    assert [response.id.value for response in responses] == ["a", "", "c", "c"]


def test_one_byte_at_a_time(asr: Any, riva: Any) -> None:
    data = wav(0.02)
    responses = list(asr.streaming_response_generator([bytes([b]) for b in data], streaming()))
    assert len(responses) == len(data)
    assert riva.service.lives[0].samples == 320


def test_a_large_message_is_taken_in_parts(asr: Any, riva: Any) -> None:
    responses = list(asr.streaming_response_generator([wav(100)], streaming(interim=False)))
    assert len(responses) == 1
    assert len(responses[0].results) == 200
    assert riva.service.lives[0].samples == 1_600_000


def test_a_stream_without_audio(asr: Any) -> None:
    assert talk(asr, first()) == []
    assert len(talk(asr, first(), audio(b""), audio(b""))) == 2


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "streaming_config: the stream ended before it"),
        ([audio(pcm(10))], "streaming_config: audio came before it"),
        ([pb.StreamingRecognizeRequest()], "streaming_config: audio came before it"),
        ([first(), first()], "streaming_config: there is one already"),
        ([first(**RAW), audio(pcm(1600)), first()], "there is one already"),
        ([first(model="m" * 300)], "model: "),
        ([first(), audio(b"not a container")], "its encoding was not given"),
        ([first(), audio(wav()[:20])], "ends inside its WAV header"),
        ([first(**RAW), audio(b"x")], "into a sample"),
        ([first(**RAW), audio(pcm(1), runtime_config={"x": "1"})], "runtime_config['x']"),
        ([first(**RAW), audio(pcm(1), runtime_config={"force_eou": "1"})], "runtime_config['force_eou']"),
    ],
)
def test_streams_that_are_wrong(asr: Any, messages: list[Any], words: str) -> None:
    fails(lambda: talk(asr, *messages), INVALID, words)


def test_a_newer_message(asr: Any) -> None:
    message = first()
    message.MergeFromString(b"\xf8\x07\x01")
    fails(lambda: talk(asr, message), grpc.StatusCode.UNIMPLEMENTED, "StreamingRecognizeRequest field 127")


def test_what_was_heard_before_the_damage_is_told(asr: Any) -> None:
    call = asr.stub.StreamingRecognize(iter([first(), audio(wav(0.3)[:-1])]), timeout=60)
    next(call)
    assert next(call).results[-1].is_final
    fails(drained(call), INVALID, "into a sample")


def test_a_client_that_goes_ends_its_stream(asr: Any, riva: Any) -> None:
    riva.service.hold = threading.Event()
    call = asr.stub.StreamingRecognize(iter([first(**RAW), audio(pcm(1600))]))
    until(lambda: riva.service.waiting == 1)
    call.cancel()
    until(lambda: riva.streams.running == 0)
    assert riva.service.cancelled == 1
    assert riva.service.lives[0].closed


def test_a_deadline_ends_a_stream(asr: Any, riva: Any) -> None:
    hold = threading.Event()

    def messages() -> Iterator[Any]:
        yield first(**RAW)
        hold.wait(60)

    call = asr.stub.StreamingRecognize(messages(), timeout=0.3)
    fails(drained(call), grpc.StatusCode.DEADLINE_EXCEEDED)
    until(lambda: riva.streams.running == 0)
    hold.set()


def test_an_idle_stream_is_ended(serve: Any) -> None:
    hold = threading.Event()

    def messages() -> Iterator[Any]:
        yield first(**RAW)
        hold.wait(60)

    with serve(stream_idle_timeout_s=0.2) as riva:
        call = _auth(riva.uri).stub.StreamingRecognize(messages())
        fails(drained(call), grpc.StatusCode.DEADLINE_EXCEEDED, "has sent nothing for 0.2 s")
        hold.set()
        until(lambda: riva.streams.running == 0)


def test_a_caller_that_takes_no_answers_is_left(serve: Any) -> None:
    """Its answers fill the connection's window, then its time is up."""

    def messages() -> Iterator[Any]:
        yield first(enable_word_time_offsets=True, **RAW)
        for _ in range(100):
            yield audio(pcm(480_000))

    small = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
    with serve(stream_idle_timeout_s=0.5) as riva:
        call = _auth(riva.uri, options=small).stub.StreamingRecognize(messages())
        until(lambda: bool(riva.service.lives))  # it was let in, and may be over already
        until(lambda: riva.streams.running == 0)
        with pytest.raises(grpc.RpcError):
            list(call)


def test_more_streams_than_places(serve: Any) -> None:
    with serve(max_streams=1) as riva:
        asr = _auth(riva.uri)
        riva.service.hold = threading.Event()
        held = asr.stub.StreamingRecognize(iter([first(**RAW), audio(pcm(1600))]))
        until(lambda: riva.service.waiting == 1)
        fails(lambda: talk(asr, first()), grpc.StatusCode.RESOURCE_EXHAUSTED, "1 streams are in work")
        riva.service.hold.set()
        assert len(list(held)) == 2
        assert talk(asr, first()) == []


def test_more_requests_than_places(serve: Any) -> None:
    with serve(max_requests=1) as riva:
        asr = _auth(riva.uri)
        riva.service.hold = threading.Event()
        held = asr.offline_recognize(wav(), config(), future=True)
        until(lambda: riva.service.waiting == 1)
        fails(
            lambda: asr.offline_recognize(wav(), config()),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "1 requests are in work",
        )
        riva.service.hold.set()
        assert held.result().results


def test_the_end_lets_running_calls_finish(asr: Any, riva: Any) -> None:
    riva.service.hold = threading.Event()
    held = asr.stub.StreamingRecognize(iter([first(**RAW), audio(pcm(1600))]))
    recording = asr.offline_recognize(wav(), config(), future=True)
    until(lambda: riva.service.waiting == 2)
    riva.drain(60)
    until(lambda: riva.requests.draining)
    fails(lambda: talk(asr, first()), grpc.StatusCode.UNAVAILABLE, "is stopping")
    fails(lambda: asr.offline_recognize(wav(), config()), grpc.StatusCode.UNAVAILABLE, "is stopping")
    riva.service.hold.set()
    assert len(list(held)) == 2
    assert recording.result().results


def test_who_is_not_done_at_the_end_is_told(asr: Any, riva: Any) -> None:
    riva.service.hold = threading.Event()
    held = asr.stub.StreamingRecognize(iter([first(**RAW), audio(pcm(1600))]))
    recording = asr.offline_recognize(wav(), config(), future=True)
    until(lambda: riva.service.waiting == 2)
    riva.drain(0.05)
    fails(drained(held), grpc.StatusCode.UNAVAILABLE, "is stopping")
    fails(recording.result, grpc.StatusCode.UNAVAILABLE, "is stopping")


# GetRivaSpeechRecognitionConfig, health, reflection


def listed(asr: Any, **fields: Any) -> list[tuple[str, dict[str, str]]]:
    request = pb.RivaSpeechRecognitionConfigRequest(**fields)
    answer = asr.stub.GetRivaSpeechRecognitionConfig(request)
    return [(config.model_name, dict(config.parameters)) for config in answer.model_config]


def test_the_models(asr: Any, riva: Any) -> None:
    echo = {
        "type": "offline",
        "language_code": "en,de",
        "streaming": "False",
        "sample_rate_hertz": "16000",
    }
    ears = {"type": "online", "language_code": "en", "streaming": "True", "sample_rate_hertz": "16000"}
    assert listed(asr) == [("echo", echo), ("ears", ears)]
    assert listed(asr, model_name="ears") == [("ears", ears)]
    assert listed(asr, model_name="parrot") == [("echo", echo)]
    assert listed(asr, model_name="nobody") == []
    riva.service.cards = (*riva.service.cards, ModelCard("best", True, task=Task.RECOGNIZE, rank=1))
    assert [name for name, _ in listed(asr)] == ["best", "echo", "ears"]


def health(riva: Any, service: str) -> Any:
    with grpc.insecure_channel(riva.uri) as channel:
        return (
            health_pb2_grpc.HealthStub(channel)
            .Check(health_pb2.HealthCheckRequest(service=service), timeout=60)
            .status
        )


def test_health(riva: Any) -> None:
    assert health(riva, "") == health_pb2.HealthCheckResponse.SERVING
    assert health(riva, RIVA) == health_pb2.HealthCheckResponse.SERVING
    fails(lambda: health(riva, "nobody"), grpc.StatusCode.NOT_FOUND)
    riva.service.unready = ServerUnavailableError("gone")
    assert health(riva, RIVA) == health_pb2.HealthCheckResponse.NOT_SERVING
    riva.service.unready = None
    riva.drain(60)
    until(lambda: riva.requests.draining)
    assert health(riva, RIVA) == health_pb2.HealthCheckResponse.NOT_SERVING


def test_health_is_watched(riva: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.gateway.riva import health as module

    monkeypatch.setattr(module, "_POLL_S", 0.02)
    with grpc.insecure_channel(riva.uri) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=RIVA))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        riva.service.unready = ServerUnavailableError("gone")
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        unknown = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="nobody"))
        assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def test_reflection(riva: Any) -> None:
    with grpc.insecure_channel(riva.uri) as channel:
        services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert services == {RIVA, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


# Around the calls


def test_the_metrics_and_the_log(asr: Any, riva: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "orchestrator.gateway.access")
    request = pb.RecognizeRequest(config=config(), audio=wav(), id={"value": "mine-1"})
    asr.stub.Recognize(request)
    list(asr.streaming_response_generator([wav()], streaming()))
    fails(lambda: talk(asr, audio(b"")), INVALID)
    until(lambda: len(caplog.messages) == 3)
    recognised, streamed, failed = caplog.messages
    assert '"id": "mine-1"' in recognised
    assert '"status": "OK"' in recognised
    assert '"audio_s": 1.0' in recognised
    assert '"route": "StreamingRecognize"' in streamed
    assert '"error": "RpcError"' in failed
    assert not any("one" in message.split() for message in caplog.messages)
    text = riva.metrics.text().decode()
    assert 'requests_total{method="grpc",route="Recognize",status="OK"} 1.0' in text
    assert 'requests_total{method="grpc",route="StreamingRecognize",status="INVALID_ARGUMENT"} 1.0' in text
    assert "stream_response_seconds_count 1.0" in text
    assert "spark_speech_gateway_audio_seconds_total 2.0" in text


def test_an_id_that_is_no_id_stays_out_of_the_log(
    asr: Any, riva: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "orchestrator.gateway.access")
    asr.stub.Recognize(pb.RecognizeRequest(config=config(), audio=wav(), id={"value": 'x", "y'}))
    until(lambda: len(caplog.messages) == 1)
    assert "y" not in caplog.messages[0].split('"id": ')[1][:34]


def test_messages_at_and_over_the_limit(serve: Any) -> None:
    with serve(max_message_bytes=4 * 1024**2) as riva:
        options = [("grpc.max_send_message_length", -1)]
        asr = _auth(riva.uri, options=options)
        assert asr.offline_recognize(wav(100), config()).results
        fails(
            lambda: asr.offline_recognize(wav(200), config()),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "larger than max",
        )


def test_the_library_is_the_one_that_is_tested() -> None:
    assert riva.client.ASRService is not None
