"""The gateway as a process of its own: real sockets, the real openai SDK, a real tritonserver behind it."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import random
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import soundfile
import srt
import webvtt

from tests.integration.gateway_process import LIMIT_S, Running, running

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def gateway(default_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("gateway"), default_server.url) as started:
        yield started
        assert started.process.poll() is None, "it must have lived through all tests"


@pytest.fixture(scope="module")
def sdk(gateway: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def sample() -> Path:
    """30 s of two people, from pyannote.audio's package."""
    found = importlib.util.find_spec("pyannote.audio")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "sample" / "sample.wav"


@pytest.fixture(scope="module")
def piece(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 10 s of it, where the words do not matter."""
    samples, rate = soundfile.read(sample)
    path = tmp_path_factory.mktemp("piece") / "piece.wav"
    soundfile.write(path, samples[: 10 * rate], rate)
    return path


@pytest.fixture(scope="module")
def text(sdk: openai.OpenAI, piece: Path) -> str:
    """What is said in the piece."""
    return sdk.audio.transcriptions.create(file=piece, model="whisper-1").text


def test_the_sdk_gets_text(sdk: openai.OpenAI, sample: Path) -> None:
    import jiwer
    from whisper_normalizer.english import EnglishTextNormalizer

    lines = [line.split(maxsplit=5) for line in sample.with_suffix(".stm").read_text().splitlines()]
    said = " ".join(words for _, words in sorted((float(ln[3]), ln[5]) for ln in lines if ln[0][0] != ";"))
    plain = EnglishTextNormalizer()
    text = sdk.audio.transcriptions.create(file=sample, model="gpt-4o-transcribe").text
    assert jiwer.wer(plain(said), plain(text)) < 0.4


def test_the_sdk_gets_segments_and_words(sdk: openai.OpenAI, piece: Path, text: str) -> None:
    answer = sdk.audio.transcriptions.create(
        file=piece,
        model="moonshine",
        language="en",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        temperature=0,
    )
    assert answer.duration == pytest.approx(10.0, abs=0.1)
    assert answer.language == "en"
    assert answer.text == text
    assert answer.words is not None
    assert " ".join(word.word for word in answer.words) == text
    assert answer.segments is not None
    assert all(0 <= part.start <= part.end <= 10.1 and part.avg_logprob <= 0 for part in answer.segments)


def test_the_sdk_gets_captions_with_speakers(sdk: openai.OpenAI, sample: Path, piece: Path) -> None:
    captions = sdk.audio.transcriptions.create(
        file=sample, model="auto", response_format="srt", extra_body={"num_speakers": 2}
    )
    named = [cue.content.partition(":")[0] for cue in srt.parse(str(captions)) if ":" in cue.content]
    assert set(named) == {"SPEAKER_00", "SPEAKER_01"}
    written = sdk.audio.transcriptions.create(file=piece, model="auto", response_format="vtt")
    assert "SPEAKER_00" in {cue.voice for cue in webvtt.from_string(str(written))}


def test_the_sdk_gets_speakers(sdk: openai.OpenAI, sample: Path) -> None:
    answer: Any = sdk.audio.transcriptions.create(
        file=sample,
        model="gpt-4o-transcribe-diarize",
        response_format="diarized_json",
        chunking_strategy="auto",
    )
    assert len({part.speaker for part in answer.segments} - {"unknown"}) == 2
    assert [part.id for part in answer.segments] == [f"seg_{at}" for at in range(len(answer.segments))]


def test_the_sdk_streams(sdk: openai.OpenAI, piece: Path, text: str) -> None:
    with sdk.audio.transcriptions.create(file=piece, model="gpt-4o-transcribe", stream=True) as stream:
        *deltas, done = list(stream)
    assert done.type == "transcript.text.done"
    assert done.text == text
    assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == text


def test_the_asynchronous_sdk(gateway: Running, piece: Path, text: str) -> None:
    """Several at once, plain and streaming."""

    async def scene() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:

            async def plain() -> str:
                return (await client.audio.transcriptions.create(file=piece, model="auto")).text

            async def streamed() -> str:
                stream = await client.audio.transcriptions.create(file=piece, model="auto", stream=True)
                return [event async for event in stream][-1].text  # type: ignore[union-attr]

            return await asyncio.gather(plain(), streamed())

    assert asyncio.run(scene()) == [text] * 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK says so of translations
def test_the_sdk_understands_refusals(sdk: openai.OpenAI, sample: Path) -> None:
    create = sdk.audio.transcriptions.create
    with pytest.raises(openai.BadRequestError) as prompt:
        create(file=sample, model="auto", prompt="Names: Ada")
    assert (prompt.value.param, prompt.value.code) == ("prompt", "unsupported_parameter")
    with pytest.raises(openai.BadRequestError) as voices:
        create(
            file=sample,
            model="auto",
            known_speaker_names=["Ada"],
            known_speaker_references=["data:audio/wav;base64,AAAA"],
        )
    assert voices.value.param == "known_speaker_names"
    with pytest.raises(openai.BadRequestError) as chunking:
        create(file=sample, model="auto", chunking_strategy={"type": "server_vad", "threshold": 0.5})
    assert chunking.value.param == "chunking_strategy"
    with pytest.raises(openai.BadRequestError) as language:
        create(file=sample, model="auto", language="kn")
    assert (language.value.param, language.value.code) == ("language", "unsupported_language")
    with pytest.raises(openai.NotFoundError) as model:
        create(file=sample, model="whisper-9")
    assert (model.value.param, model.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.BadRequestError) as audio:
        create(file=("talk.wav", b"no audio at all " * 100), model="auto", stream=True)
    assert (audio.value.param, audio.value.code) == ("file", "invalid_audio")
    assert "talk.wav" in audio.value.message
    with pytest.raises(openai.APIStatusError) as translation:
        sdk.audio.translations.create(file=sample, model="whisper-1")
    assert translation.value.status_code == 501


def test_the_sdk_lists_models(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["auto", "moonshine"]
    assert sdk.models.retrieve("moonshine").owned_by == "spark-speech"


def test_it_is_ready(gateway: Running) -> None:
    assert httpx.get(f"{gateway.url}/v1/health/ready", timeout=LIMIT_S).json() == {"status": "ready"}
    models = httpx.get(f"{gateway.url}/v1/metadata", timeout=LIMIT_S).json()["modelInfo"]
    assert {model["shortName"]: model["task"] for model in models} == {
        "diarizer": "diarize",
        "moonshine": "recognize",
    }


def test_a_client_that_goes_leaves_nothing_behind(gateway: Running, sample: Path) -> None:
    with pytest.raises(httpx.TimeoutException):
        httpx.post(
            f"{gateway.url}/v1/audio/transcriptions",
            data={"model": "auto"},
            files={"file": sample.open("rb")},
            timeout=0.4,
        )
    # Noted at its end; it may not even have begun yet.
    wait_until(lambda: figure(gateway, 'errors_total{kind="client_closed"}') >= 1)
    wait_until(lambda: not gateway.uploads and figure(gateway, "in_flight") == 0)


def figure(gateway: Running, name: str) -> float:
    text = httpx.get(f"{gateway.url}/metrics", timeout=LIMIT_S).text
    values = [
        ln.rpartition(" ")[2] for ln in text.splitlines() if ln.startswith(f"spark_speech_gateway_{name}")
    ]
    return float(values[0]) if values else 0.0


def wait_until(condition: Callable[[], bool], timeout_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_metrics_after_real_work(gateway: Running, text: str) -> None:
    assert figure(gateway, "audio_seconds_total") >= 10
    assert figure(gateway, "real_time_factor_count") >= 1


def test_the_log_holds_no_words(gateway: Running, text: str) -> None:
    def told() -> bool:
        lines = [json.loads(line) for line in gateway.log.read_text().splitlines() if line.startswith("{")]
        return any(line["status"] == 200 and line.get("audio_s") == 10.0 for line in lines)

    wait_until(told)  # a line is written after its answer
    log = gateway.log.read_text()
    assert not any(sentence in log for sentence in text.split(". ") if len(sentence) > 12)
    assert "sample.wav" not in log


# Without Triton from here on.


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("alone")
    with running(folder, max_upload_bytes=1_000_000) as started:
        yield started
        assert started.process.poll() is None, "it must have lived through all tests"


def test_without_triton_it_lives_but_is_not_ready(alone: Running) -> None:
    assert httpx.get(f"{alone.url}/v1/health/live", timeout=LIMIT_S).status_code == 200
    answer = httpx.get(f"{alone.url}/v1/health/ready", timeout=LIMIT_S)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "server_unavailable"


def raw(gateway: Running, request: bytes) -> bytes:
    """Send bytes, then read until the other side closes."""
    answer = b""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=LIMIT_S) as peer:
        try:
            peer.sendall(request)
            peer.shutdown(socket.SHUT_WR)
            while chunk := peer.recv(65536):
                answer += chunk
        except TimeoutError:
            raise
        except OSError:  # reset: it was closed before all had been read
            pass
    return answer


HEAD = (
    b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=g\r\n"
)


def test_requests_that_are_none(alone: Running) -> None:
    """Broken HTTP, bodies and lengths: a 4xx or a closed connection, and the gateway goes on."""
    for request in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 10\r\n\r\nabc",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 3\r\n\r\n\xff\xfe\x00",
        b"\xff" * 10_000,
    ):
        answer = raw(alone, request)
        assert answer == b"" or b" 4" in answer.partition(b"\r\n")[0], (request[:80], answer[:200])
    assert httpx.get(f"{alone.url}/v1/health/live", timeout=LIMIT_S).status_code == 200
    assert alone.uploads == []


def test_a_body_declared_giant_is_refused_at_once(alone: Running) -> None:
    with socket.create_connection(("127.0.0.1", alone.port), timeout=LIMIT_S) as peer:
        peer.sendall(HEAD + b"Content-Length: 99999999999\r\n\r\n--g\r\n")
        assert peer.recv(100).startswith(b"HTTP/1.1 413")
    assert alone.uploads == []


def test_an_endless_body_is_refused_at_the_limit(alone: Running) -> None:
    part = b'--g\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", alone.port), timeout=LIMIT_S) as peer:
        peer.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        peer.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        for _ in range(20):
            peer.sendall(chunk)
        assert peer.recv(100).startswith(b"HTTP/1.1 413")
    assert alone.uploads == []


def test_a_slow_upload_ends_at_its_time(tmp_path: Path) -> None:
    with running(tmp_path / "slow", upload_timeout_s=1) as started:
        with socket.create_connection(("127.0.0.1", started.port), timeout=LIMIT_S) as peer:
            peer.sendall(HEAD + b"Content-Length: 1000\r\n\r\n--g\r\n")
            answer = b""
            while chunk := peer.recv(1000):
                answer += chunk
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"upload_timeout" in answer
        assert started.uploads == []


def test_an_upload_that_is_cut(alone: Running) -> None:
    part = b'--g\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    with socket.create_connection(("127.0.0.1", alone.port), timeout=LIMIT_S) as peer:
        peer.sendall(HEAD + b"Content-Length: 100000\r\n\r\n" + part + b"x" * 5000)
        wait_until(lambda: len(alone.uploads) == 1)
    wait_until(lambda: alone.uploads == [])


def test_damaged_recordings(gateway: Running, sample: Path) -> None:
    """Containers with wrong bytes: 200 or a 4xx, nothing left, no memory and no files held."""
    dice = random.Random(4)
    heads = (
        sample.read_bytes()[:40_000],
        b"fLaC",
        b"OggS",
        b"ID3\x04",
        b"\x1aE\xdf\xa3",
        b"\0\0\0\x20ftypM4A ",
    )
    process = psutil.Process(gateway.process.pid)
    with httpx.Client(timeout=240) as client:

        def send() -> int:
            body = bytearray(dice.choice(heads) + dice.randbytes(dice.randrange(4000)))
            for _ in range(dice.randrange(20)):
                body[dice.randrange(len(body))] = dice.randrange(256)
            return client.post(
                f"{gateway.url}/v1/audio/transcriptions",
                data={"model": "auto"},
                files={"file": ("a.wav", bytes(body))},
            ).status_code

        for _ in range(8):
            send()  # loads the decoders
        before, files = process.memory_info().rss, process.num_fds()
        statuses = {send() for _ in range(40)}
        assert statuses <= {200, 400, 413}
        assert 400 in statuses
        wait_until(lambda: process.num_fds() <= files + 2)
        assert process.memory_info().rss - before < 60_000_000
    assert gateway.uploads == []


def test_a_large_upload_stays_out_of_memory(gateway: Running, tmp_path: Path) -> None:
    """The process's peak, which a body read whole would raise by its size."""
    large = tmp_path / "large.wav"
    with large.open("wb") as file:
        file.truncate(200_000_000)
    httpx.get(f"{gateway.url}/v1/health/live", timeout=LIMIT_S)
    before = peak_bytes(gateway)
    with large.open("rb") as file:
        answer = httpx.post(
            f"{gateway.url}/v1/audio/transcriptions",
            data={"model": "auto"},
            files={"file": file},
            timeout=240,
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_audio")
    assert peak_bytes(gateway) - before < 50_000_000
    assert gateway.uploads == []


def peak_bytes(gateway: Running) -> int:
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def test_a_key_is_needed_where_one_is_set(tmp_path: Path) -> None:
    hashed = hashlib.sha256(b"sesame").hexdigest()
    with running(tmp_path / "keys", api_key_hashes=f'["{hashed}"]') as started:
        right = openai.OpenAI(base_url=f"{started.url}/v1", api_key="sesame", max_retries=0)
        with pytest.raises(openai.InternalServerError):  # past the key, there is no Triton
            right.models.list()
        with pytest.raises(openai.AuthenticationError) as caught:
            right.with_options(api_key="guess").models.list()
        assert caught.value.code == "invalid_api_key"
        assert started.stop() == 0
        log = started.log.read_text()
    assert "sesame" not in log
    assert "guess" not in log


def test_the_end_waits_for_uploads_and_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM: no new connections, a request under way gets its answer, then exit code 0."""
    with running(tmp_path / "end", drain_timeout_s=LIMIT_S) as started:
        body = b'--g\r\nContent-Disposition: form-data; name="model"\r\n\r\nauto\r\n--g--\r\n'
        with socket.create_connection(("127.0.0.1", started.port), timeout=LIMIT_S) as peer:
            peer.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body[:20])
            wait_until(lambda: len(started.uploads) == 1)
            started.process.send_signal(signal.SIGTERM)
            wait_until(lambda: refuses(started.port))
            assert started.process.poll() is None
            peer.sendall(body[20:])
            assert peer.recv(100).startswith(b"HTTP/1.1 400")
        assert started.process.wait(LIMIT_S) == 0
        assert started.scratch == []


def test_who_is_not_done_when_time_is_up_is_told(tmp_path: Path) -> None:
    with running(tmp_path / "late", drain_timeout_s=0.5, upload_timeout_s=100) as started:
        with socket.create_connection(("127.0.0.1", started.port), timeout=LIMIT_S) as peer:
            peer.sendall(HEAD + b"Content-Length: 1000\r\n\r\n--g\r\n")
            wait_until(lambda: len(started.uploads) == 1)
            started.process.send_signal(signal.SIGTERM)
            assert peer.recv(100).startswith(b"HTTP/1.1 503")
        assert started.process.wait(LIMIT_S) == 0
        assert started.scratch == []


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A CA, and a server's and a client's certificate of it, by openssl."""
    folder = tmp_path_factory.mktemp("tls")

    def run(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    authority = ("-addext", "keyUsage=critical,keyCertSign")
    run(*new, *authority, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA")
    for name in ("server", "client"):
        extra = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1")
        leaf = ("-addext", "basicConstraints=critical,CA:FALSE")
        run(*new, *extra, *leaf, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    return {path.name: path for path in folder.iterdir()}


def test_tls_and_client_certificates(certificates: Mapping[str, Path], tmp_path: Path) -> None:
    files = {
        "tls_certfile": certificates["server.pem"],
        "tls_keyfile": certificates["server.key"],
        "tls_client_ca": certificates["ca.pem"],
    }
    with running(tmp_path / "tls", **files) as started:
        assert started.url.startswith("https://")
        known = ssl.create_default_context(cafile=str(certificates["ca.pem"]))
        known.load_cert_chain(certificates["client.pem"], certificates["client.key"])
        answer = httpx.get(f"{started.url}/v1/health/live", verify=known, timeout=LIMIT_S)
        assert answer.json() == {"status": "live"}
        stranger = ssl.create_default_context(cafile=str(certificates["ca.pem"]))
        with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
            httpx.get(f"{started.url}/v1/health/live", verify=stranger, timeout=LIMIT_S)
        assert started.stop() == 0
