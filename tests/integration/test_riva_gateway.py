"""Riva's clients against a gateway process and a real tritonserver with the small checkpoint."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import soundfile
from riva.client.proto import riva_asr_pb2 as pb

from orchestrator import resources
from orchestrator.runtime.ports import free_ports
from tests.gateway.riva.certificates import Authority, Pair
from tests.integration import riva_scripts as scripts
from tests.integration.gateway_process import LIMIT_S, NOWHERE, Running, running
from tests.integration.talk import Talk

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

DIALOGUE = Path(resources.__file__).parent / "training" / "checkpoint" / "dialogue.flac"
KEY = "open-sesame"


@pytest.fixture(scope="module")
def gateway(triton: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("gateway"), triton.url) as started:
        yield started
        assert started.process.poll() is None, "it must have lived through all tests"


@pytest.fixture
def at(gateway: Running) -> list[str]:
    return ["--server", gateway.riva]


def said(printed: str) -> str:
    """The finals that `print_streaming` wrote, one after another as a client would join them."""
    return "".join(line.removeprefix("## ") for line in printed.splitlines() if line.startswith("## "))


def final_text(response: Any) -> str:
    return "".join(result.alternatives[0].transcript for result in response.results)


def errors(said: str, expected: str) -> float:
    import jiwer

    return float(jiwer.wer(expected, said))


@pytest.fixture(scope="module")
def recognised(gateway: Running, talk: Talk) -> str:
    """What the streaming model makes of the dialogue."""
    return said(scripts.transcribe_file(["--server", gateway.riva, "--input-file", str(talk.wav)]))


# transcribe_file.py


def test_transcribe_file(recognised: str, talk: Talk) -> None:
    assert errors(recognised, talk.text) < 0.15
    assert "  " not in recognised


def test_transcribe_file_in_other_containers(at: list[str], talk: Talk, recognised: str) -> None:
    for path in (talk.stereo, talk.flac, talk.mulaw, talk.opus):
        printed = scripts.transcribe_file([*at, "--input-file", str(path)])
        assert errors(said(printed), recognised) < 0.1, path.name


def test_transcribe_file_shows_what_changes(at: list[str], talk: Talk) -> None:
    printed = scripts.transcribe_file([*at, "--input-file", str(talk.short), "--show-intermediate"])
    assert printed.count(">> ") > 5
    assert "## " in printed


def test_transcribe_file_prints_confidence(at: list[str], talk: Talk) -> None:
    printed = scripts.transcribe_file([*at, "--input-file", str(talk.short), "--print-confidence"])
    assert re.search(r"Transcript 0 is final: *|>>>|##", printed)
    stabilities = [float(found) for found in re.findall(r"[Ss]tability: *([0-9.]+)", printed)]
    assert all(0 <= value <= 1 for value in stabilities)


def test_transcribe_file_in_real_time(at: list[str], talk: Talk) -> None:
    began = time.monotonic()
    scripts.transcribe_file([*at, "--input-file", str(talk.short), "--simulate-realtime"])
    assert time.monotonic() - began > 5.5


def test_transcribe_file_lists_models(at: list[str]) -> None:
    assert json.loads(scripts.transcribe_file([*at, "--list-models"])) == {
        "en": [{"model": ["parakeet_streaming"]}]
    }
    assert json.loads(scripts.transcribe_file_offline([*at, "--list-models"])) == {
        "en": [{"model": ["parakeet"]}]
    }


@pytest.mark.parametrize("chunk", ["1", "160", "8000", "100000000"])
def test_transcribe_file_in_chunks_of_any_size(at: list[str], talk: Talk, chunk: str) -> None:
    """Frames; of one frame only the beginning, as a message each is slow."""
    path = talk.short
    if chunk == "1":
        samples, rate = soundfile.read(path, dtype="int16")
        path = path.with_name("shortest.wav")
        soundfile.write(path, samples[: int(0.2 * rate)], rate)
    scripts.transcribe_file([*at, "--input-file", str(path), "--file-streaming-chunk", chunk])


def test_words_with_times(at: list[str], talk: Talk) -> None:
    printed = scripts.transcribe_file([*at, "--input-file", str(talk.short), "--word-time-offsets"])
    assert "Timestamps:" in printed
    rows = re.findall(r"^(\S+) +(\d+) +(\d+) +([0-9.]+)", printed, re.MULTILINE)
    assert len(rows) > 8
    assert all(int(begin) <= int(end) <= 6100 for _, begin, end, _ in rows)
    response = scripts.transcribe_file_offline([*at, "--input-file", str(talk.short), "--word-time-offsets"])
    words = [word for result in response.results for word in result.alternatives[0].words]
    assert all(0 <= word.start_time <= word.end_time <= 6100 for word in words)
    assert " ".join(word.word for word in words) == final_text(response).strip()


def test_speakers(at: list[str], talk: Talk, tmp_path: Path) -> None:
    flags = [*at, "--input-file", str(talk.wav), "--speaker-diarization", "--diarization-max-speakers", "2"]
    response = scripts.transcribe_file_offline(flags)
    tags = {word.speaker_tag for result in response.results for word in result.alternatives[0].words}
    assert tags == {1, 2}
    output = tmp_path / "live"
    printed = scripts.transcribe_file([*flags, "--output-seglst", str(output)])
    assert "Timestamps:" in printed
    segments = json.loads(output.with_name("live.seglst.json").read_text())
    assert len({segment["speaker"] for segment in segments}) >= 2


def test_automatic_punctuation(at: list[str], talk: Talk) -> None:
    """The small checkpoint writes none; what it writes stays as it is."""
    for script in (scripts.transcribe_file_offline, scripts.transcribe_file):
        plain = script([*at, "--input-file", str(talk.short)])
        full = script([*at, "--input-file", str(talk.short), "--automatic-punctuation"])
        if not isinstance(plain, str):
            plain, full = final_text(plain), final_text(full)
        assert full == plain == plain.lower()


def test_spoken_numbers(at: list[str], talk: Talk) -> None:
    flags = [*at, "--input-file", str(talk.wav)]
    verbatim = final_text(scripts.transcribe_file_offline(flags))
    written = final_text(scripts.transcribe_file_offline([*flags, "--no-verbatim-transcripts"]))
    assert "four seven two eight" in verbatim
    assert "4 7 2 8" in written
    assert "4 7 2 8" in said(scripts.transcribe_file([*flags, "--no-verbatim-transcripts"]))


def test_profanity_filter_and_alternatives(at: list[str], talk: Talk) -> None:
    """Nobody swears in the dialogue, so it stays; the words of lists are tested without a model."""
    flags = [*at, "--input-file", str(talk.short)]
    plain = scripts.transcribe_file_offline(flags)
    more = scripts.transcribe_file_offline([*flags, "--profanity-filter", "--max-alternatives", "5"])
    assert final_text(more) == final_text(plain)
    assert {len(result.alternatives) for result in more.results} == {1}


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--language-code", "kn-IN"], grpc.StatusCode.INVALID_ARGUMENT, "kn-IN"),
        (["--model-name", "whisper"], grpc.StatusCode.INVALID_ARGUMENT, "whisper"),
        (
            ["--boosted-lm-words", "Ada", "--boosted-lm-words", "Bob"],
            grpc.StatusCode.UNIMPLEMENTED,
            "speech_contexts",
        ),
        (
            ["--custom-configuration", "neural_vad.onset:0.5"],
            grpc.StatusCode.INVALID_ARGUMENT,
            "neural_vad.onset",
        ),
        (
            ["--start-threshold", "1.5"],
            grpc.StatusCode.INVALID_ARGUMENT,
            "endpointing_config.start_threshold",
        ),
    ],
)
def test_flags_that_are_refused(
    at: list[str], talk: Talk, flags: list[str], code: grpc.StatusCode, words: str
) -> None:
    for script in (scripts.transcribe_file, scripts.transcribe_file_offline):
        with pytest.raises(grpc.RpcError) as caught:
            script([*at, "--input-file", str(talk.short), *flags])
        assert caught.value.code() is code  # type: ignore[attr-defined]
        assert words in str(caught.value.details())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "flags",
    [
        ["--language-code", "en-US"],
        ["--language-code", "en-US", "--boosted-lm-score", "40"],
        ["--custom-configuration", "task:transcribe"],
        ["--metadata", "function-id", "x", "--metadata", "authorization", "Bearer nobody-asks"],
        ["--options", "grpc.keepalive_time_ms", "20000"],
        ["--max-message-length", "8388608"],
    ],
)
def test_flags_that_change_no_word(at: list[str], talk: Talk, flags: list[str]) -> None:
    plain = final_text(scripts.transcribe_file_offline([*at, "--input-file", str(talk.short)]))
    given = [*at, "--input-file", str(talk.short), *flags]
    assert final_text(scripts.transcribe_file_offline(given)) == plain
    assert said(scripts.transcribe_file(given))


def test_model_name(at: list[str], talk: Talk) -> None:
    given = [*at, "--input-file", str(talk.short), "--model-name"]
    assert final_text(scripts.transcribe_file_offline([*given, "parakeet"]))
    assert said(scripts.transcribe_file([*given, "parakeet_streaming"]))
    for script, wrong in (
        (scripts.transcribe_file_offline, "parakeet_streaming"),
        (scripts.transcribe_file, "diarizer"),
    ):
        with pytest.raises(grpc.RpcError):
            script([*given, wrong])


def test_endpointing(at: list[str], talk: Talk) -> None:
    """The dialogue's pauses are 0.5 s: they end utterances only for those who say so."""
    flags = [*at, "--input-file", str(talk.wav)]
    short = ["--stop-history", "320", "--stop-threshold", "0.9", "--start-history", "160"]
    short += ["--start-threshold", "0.1", "--stop-history-eou", "160", "--stop-threshold-eou", "0.9"]
    long = ["--stop-history", "2000"]

    def finals(flags: list[str]) -> int:
        return scripts.transcribe_file(flags).count("## ")

    assert finals([*flags, *short]) > finals([*flags, *long])
    offline = scripts.transcribe_file_offline
    assert len(offline([*flags, *short]).results) > len(offline([*flags, *long]).results)


# transcribe_file_offline.py


def test_transcribe_file_offline(at: list[str], talk: Talk) -> None:
    plain = final_text(scripts.transcribe_file_offline([*at, "--input-file", str(talk.wav)]))
    assert errors(plain, talk.text) < 0.15
    for path in (talk.stereo, talk.flac, talk.mulaw, talk.opus):
        response = scripts.transcribe_file_offline([*at, "--input-file", str(path)])
        assert errors(final_text(response), plain) < 0.1, path.name
        assert response.results[0].audio_processed == pytest.approx(22.552, abs=0.1)


# riva_streaming_asr_client.py


def test_riva_streaming_asr_client(at: list[str], talk: Talk) -> None:
    outputs = scripts.riva_streaming_asr_client(
        [
            *at,
            *("--input-file", str(talk.short), "--num-clients", "4", "--num-iterations", "2"),
            *("--word-time-offsets", "--automatic-punctuation"),
        ]
    )
    texts = ["".join(re.findall(r"Transcript 0: (.*?)\n", output)) for output in outputs]
    assert len(outputs) == 4
    assert len(set(texts)) == 1, "streams at the same time must not change each other"
    assert errors(texts[0], (talk.text[:75] + " ") * 2) < 0.5


# transcribe_mic.py


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_transcribe_mic(at: list[str], talk: Talk, tmp_path: Path, rate: int, recognised: str) -> None:
    import soxr

    samples, original = soundfile.read(talk.wav, dtype="float32")
    path = tmp_path / "mic.wav"
    soundfile.write(path, soxr.resample(samples, original, rate), rate, subtype="PCM_16")
    printed = scripts.transcribe_mic(
        [*at, "--sample-rate-hz", str(rate)], scripts.microphone(path, rate // 10)
    )
    limit = 0.7 if rate == 8_000 else 0.15  # the model has never heard a telephone
    assert errors(said(printed), recognised) < limit


# Around the scripts


def test_one_response_a_chunk(gateway: Running, talk: Talk) -> None:
    """So that NVIDIA's own clients can take times."""
    with grpc.insecure_channel(gateway.riva) as channel:
        from riva.client.proto.riva_asr_pb2_grpc import RivaSpeechRecognitionStub

        data = talk.short.read_bytes()
        chunks = [data[begin : begin + 5120] for begin in range(0, len(data), 5120)]
        messages = [
            pb.StreamingRecognizeRequest(
                streaming_config=pb.StreamingRecognitionConfig(
                    config=pb.RecognitionConfig(verbatim_transcripts=True), interim_results=True
                )
            ),
            *(pb.StreamingRecognizeRequest(audio_content=chunk) for chunk in chunks),
        ]
        responses = list(RivaSpeechRecognitionStub(channel).StreamingRecognize(iter(messages)))
    assert len(responses) in (len(chunks), len(chunks) + 1)
    assert responses[-1].results[-1].is_final


@dataclass(frozen=True)
class Certificates:
    authority: Pair
    server: Pair
    client: Pair


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    return Certificates(authority.pair, authority.issue("server"), authority.issue("client"))


@pytest.fixture(scope="module", params=["tls", "mutual tls"])
def secured(
    request: pytest.FixtureRequest,
    triton: Any,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[str]]:
    """The flags that reach a gateway with TLS and a key."""
    settings = {
        "tls_certfile": certificates.server.certificate,
        "tls_keyfile": certificates.server.key,
        "api_key_hashes": json.dumps([hashlib.sha256(KEY.encode()).hexdigest()]),
    }
    flags = ["--use-ssl", "--ssl-root-cert", str(certificates.authority.certificate)]
    flags += ["--metadata", "authorization", f"Bearer {KEY}"]
    if request.param == "mutual tls":
        settings["tls_client_ca"] = certificates.authority.certificate
        flags += ["--ssl-client-cert", str(certificates.client.certificate)]
        flags += ["--ssl-client-key", str(certificates.client.key)]
    with running(tmp_path_factory.mktemp("secured"), triton.url, **settings) as gateway:
        yield ["--server", gateway.riva.replace("127.0.0.1", "localhost"), *flags]


def test_all_scripts_over_tls(secured: list[str], talk: Talk) -> None:
    file = ["--input-file", str(talk.short)]
    words = final_text(scripts.transcribe_file_offline([*secured, *file]))
    assert words
    assert "parakeet" in scripts.transcribe_file_offline([*secured, "--list-models"])
    streamed = said(scripts.transcribe_file([*secured, *file]))
    assert errors(streamed, words) < 0.3
    assert all("Transcript 0" in text for text in scripts.riva_streaming_asr_client([*secured, *file]))
    heard = said(scripts.transcribe_mic(secured, scripts.microphone(talk.short, 1600)))
    assert heard.split() == streamed.split()


def test_strangers_over_tls(secured: list[str], talk: Talk) -> None:
    at = secured.index("--metadata")
    keyless = [*secured[:at], *secured[at + 3 :]]
    with pytest.raises(grpc.RpcError) as caught:
        scripts.transcribe_file_offline([*keyless, "--input-file", str(talk.short)])
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]


def test_running_streams_finish_when_the_gateway_stops(triton: Any, talk: Talk, tmp_path: Path) -> None:
    from riva.client import ASRService, Auth

    with running(tmp_path, triton.url, drain_timeout_s=30) as gateway:
        asr = ASRService(Auth(uri=gateway.riva))
        stopped = []

        def chunks() -> Iterator[bytes]:
            data = talk.short.read_bytes()
            for begin in range(0, len(data), 6400):
                yield data[begin : begin + 6400]
                if begin > len(data) // 2 and not stopped:
                    gateway.until_streaming()
                    stopped.append(gateway.process.send_signal(signal.SIGTERM))
                    time.sleep(0.5)

        config = pb.StreamingRecognitionConfig(config=pb.RecognitionConfig(verbatim_transcripts=True))
        finals = [
            r for response in asr.streaming_response_generator(chunks(), config) for r in response.results
        ]
        assert finals[-1].is_final
        assert gateway.process.wait(LIMIT_S) == 0
        assert "Traceback" not in gateway.log.read_text()


def test_streams_that_do_not_finish_are_told(triton: Any, tmp_path: Path) -> None:
    from riva.client import ASRService, Auth

    with running(tmp_path, triton.url, drain_timeout_s=1) as gateway:
        asr = ASRService(Auth(uri=gateway.riva))

        def silence() -> Iterator[bytes]:
            for number in range(100):
                yield bytes(6400)
                time.sleep(0.2)
                if number == 3:
                    gateway.until_streaming()
                    gateway.process.send_signal(signal.SIGTERM)

        given = pb.RecognitionConfig(encoding=1, sample_rate_hertz=16_000)
        call = asr.streaming_response_generator(silence(), pb.StreamingRecognitionConfig(config=given))
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert "is stopping" in str(caught.value.details())  # type: ignore[attr-defined]
        assert gateway.process.wait(LIMIT_S) == 0


def test_without_triton(tmp_path: Path, talk: Talk) -> None:
    with running(tmp_path, NOWHERE) as gateway:
        for script in (scripts.transcribe_file, scripts.transcribe_file_offline):
            with pytest.raises(grpc.RpcError) as caught:
                script(["--server", gateway.riva, "--input-file", str(talk.short)])
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert gateway.stop() == 0


def test_streams_that_go_wrong_leave_nothing(gateway: Running, triton: Any, talk: Talk) -> None:
    """Clients that vanish, lie and send noise: memory and open files are where they were."""
    from riva.client import ASRService, Auth

    rng = np.random.default_rng(1)
    process = psutil.Process(gateway.process.pid)
    good = talk.short.read_bytes()
    codes: set[grpc.StatusCode] = set()

    def crowd(count: int) -> None:
        for number in range(count):
            asr = ASRService(Auth(uri=gateway.riva))
            damaged = bytearray(good if number % 2 else talk.flac.read_bytes()[:60_000])
            for place in rng.integers(0, len(damaged), 30):
                damaged[place] = rng.integers(0, 256)
            config = pb.RecognitionConfig(verbatim_transcripts=True)
            parts = [bytes(damaged[at : at + 9000]) for at in range(0, len(damaged), 9000)]
            responses = asr.streaming_response_generator(
                parts[: rng.integers(1, len(parts))], pb.StreamingRecognitionConfig(config=config)
            )
            try:
                for _ in zip(responses, range(int(rng.integers(1, 5))), strict=False):
                    pass
            except grpc.RpcError as error:
                codes.add(error.code())  # type: ignore[attr-defined]
            asr.auth.channel.close()

    crowd(20)
    files, memory = process.num_fds(), process.memory_info().rss
    crowd(60)
    deadline = time.monotonic() + LIMIT_S
    while process.num_fds() > files + 5 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert codes == {grpc.StatusCode.INVALID_ARGUMENT}
    assert process.num_fds() <= files + 5
    assert process.memory_info().rss < memory + 40 * 1024**2
    assert said(scripts.transcribe_file(["--server", gateway.riva, "--input-file", str(talk.short)]))
    assert "Traceback" not in gateway.log.read_text()


def test_the_log_holds_no_words(gateway: Running, recognised: str) -> None:
    log = gateway.log.read_text()
    assert '"route": "StreamingRecognize"' in log
    assert not any(part in log for part in (recognised[:12], "morning", "report", KEY))


def test_a_taken_grpc_port(gateway: Running, tmp_path: Path) -> None:
    port = gateway.riva.rpartition(":")[2]
    command = [sys.executable, "-m", "orchestrator.cli", f"--set=gateway.grpc_port={port}"]
    command += [f"--set=gateway.http_port={free_ports(1)[0]}", "gateway", "--json"]
    ended = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["error"] == "PortInUseError"
    assert "gateway.grpc_port" in ended.stdout
