"""Realtime clients against a gateway process and a real tritonserver with the small checkpoint."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
import websockets

from orchestrator import resources
from tests.gateway.riva.certificates import Authority, Pair
from tests.integration.gateway_process import LIMIT_S, NOWHERE, Running, running
from tests.integration.realtime_scripts import realtime_asr_client
from tests.integration.riva_scripts import microphone
from tests.integration.talk import Talk

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

DIALOGUE = Path(resources.__file__).parent / "training" / "checkpoint" / "dialogue.flac"
KEY = "open-sesame"
RATE = 16_000
PATH = "/v1/realtime?intent=transcription"


@pytest.fixture(scope="module")
def gateway(triton: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("gateway"), triton.url) as started:
        yield started
        assert started.process.poll() is None, "it must have lived through all tests"
        assert "Traceback" not in started.log.read_text()


@pytest.fixture
def at(gateway: Running) -> list[str]:
    return ["--server", address(gateway)]


def address(gateway: Running) -> str:
    return gateway.url.partition("//")[2]


def errors(said: str, expected: str) -> float:
    import jiwer

    return float(jiwer.wer(expected, said))


@pytest.fixture(scope="module")
def recognised(gateway: Running, talk: Talk) -> str:
    """What the streaming model makes of the dialogue."""
    return realtime_asr_client(["--server", address(gateway), "--input-file", str(talk.wav)]).text


# realtime_asr_client.py


def test_a_file(recognised: str, talk: Talk) -> None:
    assert errors(recognised, talk.text) < 0.15
    assert "  " not in recognised


def test_files_in_other_containers(at: list[str], talk: Talk, recognised: str) -> None:
    for path in (talk.stereo, talk.flac, talk.opus):
        talked = realtime_asr_client([*at, "--input-file", str(path)])
        assert errors(talked.text, recognised) < 0.1, path.name
        assert [event["is_last_result"] for event in talked.completed][-2:] == [False, True]


def test_deltas_and_the_last_result(at: list[str], talk: Talk, tmp_path: Path) -> None:
    output = tmp_path / "said.txt"
    talked = realtime_asr_client([*at, "--input-file", str(talk.short), "--output-text", str(output)])
    deltas = [event["delta"] for event in talked.events if event["type"].endswith("transcription.delta")]
    assert len(deltas) > 3
    assert talked.completed[-1]["is_last_result"]
    assert talked.final == talked.completed[-1]["transcript"]
    if talked.final:
        assert output.read_text() == talked.final


@pytest.mark.parametrize("chunk", ["1", "160", "8000", "100000000"])
def test_chunks_of_any_size(at: list[str], talk: Talk, chunk: str) -> None:
    """Frames; of one frame only the beginning, as a message each is slow."""
    path = talk.short
    if chunk == "1":
        samples, rate = soundfile.read(path, dtype="int16")
        path = path.with_name("shortest.wav")
        soundfile.write(path, samples[: int(0.2 * rate)], rate)
    talked = realtime_asr_client([*at, "--input-file", str(path), "--file-streaming-chunk", chunk])
    assert talked.completed[-1]["is_last_result"]


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_a_microphone(at: list[str], talk: Talk, tmp_path: Path, rate: int, recognised: str) -> None:
    import soxr

    samples, original = soundfile.read(talk.wav, dtype="float32")
    path = tmp_path / "mic.wav"
    soundfile.write(path, soxr.resample(samples, original, rate), rate, subtype="PCM_16")
    flags = [*at, "--mic", "--sample-rate-hz", str(rate)]
    talked = realtime_asr_client(flags, microphone(path, rate // 10))
    limit = 0.7 if rate == 8_000 else 0.15  # the model has never heard a telephone
    assert errors(talked.text, recognised) < limit


def test_word_time_offsets(at: list[str], talk: Talk) -> None:
    talked = realtime_asr_client([*at, "--input-file", str(talk.short), "--word-time-offsets"])
    words = [word for event in talked.completed for word in event["words_info"]["words"]]
    assert [word["word"] for word in words] == talked.text.split()
    assert all(0 <= word["start_time"] <= word["end_time"] <= 6100 for word in words)
    assert all(0 < word["confidence"] <= 1 and word["speaker_tag"] == 0 for word in words)
    assert "Words Info:" in talked.printed


def test_speaker_diarization(at: list[str], talk: Talk) -> None:
    flags = ["--speaker-diarization", "--diarization-max-speakers", "2", "--word-time-offsets"]
    talked = realtime_asr_client([*at, "--input-file", str(talk.wav), *flags])
    tags = {word["speaker_tag"] for event in talked.completed for word in event["words_info"]["words"]}
    assert {1, 2} <= tags <= {0, 1, 2}


def test_automatic_punctuation(at: list[str], talk: Talk) -> None:
    """The small checkpoint writes none; what it writes stays as it is."""
    plain = realtime_asr_client([*at, "--input-file", str(talk.short)]).text
    full = realtime_asr_client([*at, "--input-file", str(talk.short), "--automatic-punctuation"]).text
    assert full == plain == plain.lower()


def test_no_verbatim_transcripts(at: list[str], talk: Talk, recognised: str) -> None:
    assert "four seven two eight" in recognised
    talked = realtime_asr_client([*at, "--input-file", str(talk.wav), "--no-verbatim-transcripts"])
    assert "4 7 2 8" in talked.text


def test_endpointing(at: list[str], talk: Talk) -> None:
    """The dialogue's pauses are 0.5 s: they end utterances only for those who say so."""
    flags = [*at, "--input-file", str(talk.wav)]
    short = ["--stop-history", "320", "--stop-threshold", "0.9", "--start-history", "160"]
    short += ["--start-threshold", "0.1", "--stop-history-eou", "160", "--stop-threshold-eou", "0.9"]
    many = realtime_asr_client([*flags, *short]).completed
    assert len(many) > len(realtime_asr_client([*flags, "--stop-history", "2000"]).completed)


def test_the_end_of_an_utterance_by_hand(at: list[str], talk: Talk) -> None:
    blocks = list(microphone(talk.short, 1600))
    by_hand = [number == 30 for number in range(len(blocks))]
    flags = [*at, "--mic", "--stop-history", "5000"]
    assert len(realtime_asr_client(flags, blocks, by_hand).completed) > len(
        realtime_asr_client(flags, blocks).completed
    )


@pytest.mark.parametrize(
    "flags",
    [
        ["--language-code", "en-US"],
        ["--model-name", "parakeet_streaming"],
        ["--boosted-lm-score", "40"],
        ["--custom-configuration", "task:transcribe"],
        ["--profanity-filter", "--max-alternatives", "5"],
        ["--mint-api-key", "nobody-asks"],
        ["--endpoint", "/v1/realtime", "--query-params", "intent=transcription"],
    ],
)
def test_flags_that_change_no_word(at: list[str], talk: Talk, flags: list[str]) -> None:
    plain = realtime_asr_client([*at, "--input-file", str(talk.short)]).text
    assert realtime_asr_client([*at, "--input-file", str(talk.short), *flags]).text == plain != ""


@pytest.mark.parametrize(
    "flags",
    [
        ["--language-code", "not a language"],
        ["--prompt", "about Ada"],
        ["--boosted-lm-words", "Ada", "--boosted-lm-words", "Bob"],
        ["--custom-configuration", "neural_vad.onset:0.5"],
        ["--start-threshold", "1.5"],
        ["--query-params", "intent=conversation"],
    ],
)
def test_flags_that_are_refused(at: list[str], talk: Talk, flags: list[str]) -> None:
    """The client says that the session could not be updated, and ends."""
    with pytest.raises(Exception, match=r"Failed to update session|HTTP 400"):
        realtime_asr_client([*at, "--input-file", str(talk.short), *flags])


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--language-code", "kn-IN"], "unsupported_language"),
        (["--model-name", "diarizer"], "model_not_found"),
    ],
)
def test_what_only_the_models_know_to_be_wrong(
    at: list[str], talk: Talk, flags: list[str], code: str
) -> None:
    talked = realtime_asr_client([*at, "--input-file", str(talk.short), *flags])
    assert [error["code"] for error in talked.errors] == [code]


@dataclass(frozen=True)
class Certificates:
    authority: Pair
    server: Pair
    client: Pair


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    return Certificates(authority.pair, authority.issue("server"), authority.issue("client"))


@pytest.mark.parametrize("mutual", [False, True])
def test_over_tls_with_a_key(
    triton: Any, certificates: Certificates, talk: Talk, tmp_path: Path, mutual: bool
) -> None:
    """The key goes with the request for a session; the secret that comes back opens the WebSocket."""
    settings: dict[str, Any] = {
        "tls_certfile": certificates.server.certificate,
        "tls_keyfile": certificates.server.key,
        "api_key_hashes": json.dumps([hashlib.sha256(KEY.encode()).hexdigest()]),
    }
    flags = ["--use-ssl", "--ssl-root-cert", str(certificates.authority.certificate)]
    if mutual:
        settings["tls_client_ca"] = certificates.authority.certificate
        flags += ["--ssl-client-cert", str(certificates.client.certificate)]
        flags += ["--ssl-client-key", str(certificates.client.key)]
    with running(tmp_path, triton.url, **settings) as gateway:
        flags += ["--server", address(gateway).replace("127.0.0.1", "localhost")]
        flags += ["--input-file", str(talk.short)]
        assert realtime_asr_client([*flags, "--mint-api-key", KEY]).text
        with pytest.raises(Exception, match="authentication failed"):
            realtime_asr_client([*flags, "--mint-api-key", "guess"])
        assert KEY not in gateway.log.read_text()


# OpenAI's SDK, and plain clients


def samples_24k(path: Path) -> bytes:
    import soxr

    samples, rate = soundfile.read(path, dtype="float32")
    resampled = soxr.resample(samples, rate, 24_000)
    return bytes((resampled * 32_767).clip(-32_768, 32_767).astype("<i2").tobytes())


def test_openais_sdk(gateway: Running, talk: Talk, recognised: str) -> None:
    from openai import AsyncOpenAI

    async def run() -> list[Any]:
        client = AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none")
        events = []
        async with client.realtime.connect(
            extra_query={"intent": "transcription"}, model="gpt-realtime"
        ) as live:
            assert (await live.recv()).type == "session.created"
            assert (await live.recv()).type == "conversation.created"
            await live.session.update(
                session={
                    "type": "transcription",
                    "audio": {
                        "input": {
                            "format": {"type": "audio/pcm", "rate": 24_000},
                            "transcription": {"model": "gpt-4o-transcribe", "language": "en"},
                            "turn_detection": {"type": "server_vad", "silence_duration_ms": 400},
                        }
                    },
                }
            )
            audio = samples_24k(talk.wav) + bytes(2 * 48_000)  # a second of silence ends the last utterance
            for begin in range(0, len(audio), 9600):
                piece = base64.b64encode(audio[begin : begin + 9600]).decode()
                await live.input_audio_buffer.append(audio=piece)
            await live.input_audio_buffer.clear()
            async for event in live:
                assert event.type != "error", event
                events.append(event)
                if event.type == "input_audio_buffer.cleared":
                    return events
        raise AssertionError("the connection ended early")

    events = asyncio.run(asyncio.wait_for(run(), 240))
    assert events[0].type == "session.updated"
    assert events[0].session.audio.input.format.rate == 24_000
    done = [event for event in events if event.type.endswith("transcription.completed")]
    assert errors(" ".join(event.transcript for event in done), recognised) < 0.1
    for event in done:
        deltas = [
            each.delta for each in events if each.type.endswith(".delta") and each.item_id == event.item_id
        ]
        assert event.transcript.startswith("".join(deltas))
        kinds = [each.type for each in events if getattr(each, "item_id", None) == event.item_id]
        assert kinds[0] == "input_audio_buffer.speech_started"
        assert kinds.index("input_audio_buffer.speech_stopped") < kinds.index("input_audio_buffer.committed")
    assert any(event.type.endswith(".delta") for event in events)


def test_openais_sdk_with_commits(gateway: Running, talk: Talk) -> None:
    """Without turn detection, an item is what lies between two commits."""
    from openai import OpenAI

    client = OpenAI(base_url=f"{gateway.url}/v1", api_key="none")
    with client.realtime.connect(extra_query={"intent": "transcription"}, model="gpt-realtime") as live:
        live.session.update(
            session={
                "type": "transcription",
                "audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}, "turn_detection": None}},
            }
        )
        live.input_audio_buffer.append(audio=base64.b64encode(samples_24k(talk.short)).decode())
        live.input_audio_buffer.commit()
        kinds = []
        for event in live:
            assert event.type != "error", event
            kinds.append(event.type)
            if event.type == "conversation.item.input_audio_transcription.completed":
                assert len(event.transcript.split()) > 8
                break
    assert kinds.count("input_audio_buffer.committed") == 1
    assert "input_audio_buffer.speech_started" not in kinds


@asynccontextmanager
async def connected(gateway: Running, path: str = PATH, **more: Any) -> AsyncIterator[Any]:
    url = f"ws://{address(gateway)}{path}"
    async with websockets.connect(
        url, max_size=None, open_timeout=LIMIT_S, ping_timeout=None, **more
    ) as socket:
        yield socket


async def ask(socket: Any, kind: str, **fields: Any) -> None:
    await socket.send(json.dumps({"type": kind, **fields}))


async def next_event(socket: Any) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), LIMIT_S))
    return event


async def set_up(socket: Any, **session: Any) -> None:
    assert (await next_event(socket))["type"] == "conversation.created"
    await ask(socket, "transcription_session.update", session=session)
    assert (await next_event(socket))["type"] == "transcription_session.updated"


def append(data: bytes) -> str:
    return json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(data).decode()})


async def last_result(socket: Any) -> tuple[str, dict[str, Any]]:
    """All finals, and the event that ended them."""
    text = ""
    while True:
        event = await next_event(socket)
        text += event.get("transcript", "")
        if event.get("is_last_result") or event["type"] == "error":
            return text, event


def test_several_streams_on_one_connection(gateway: Running, talk: Talk) -> None:
    async def run() -> list[str]:
        texts = []
        async with connected(gateway) as socket:
            await set_up(socket, input_audio_format="none")
            for _ in range(2):
                await socket.send(append(talk.short.read_bytes()))
                await ask(socket, "input_audio_buffer.done")
                texts.append((await last_result(socket))[0])
        return texts

    first, second = asyncio.run(run())
    assert first == second != ""


def test_pages_of_other_origins_stay_out(gateway: Running) -> None:
    async def run() -> tuple[str, str]:
        async with connected(gateway, origin="https://evil.example") as socket:
            refused = await next_event(socket)
            await socket.wait_closed()
            assert socket.close_code == 1008
        async with connected(gateway, origin=f"http://{address(gateway)}") as socket:
            return refused["error"]["code"], (await next_event(socket))["type"]

    assert asyncio.run(run()) == ("origin_not_allowed", "conversation.created")


def test_a_message_over_the_limit(gateway: Running) -> None:
    async def run() -> int:
        async with connected(gateway) as socket:
            await set_up(socket)
            with suppress(websockets.ConnectionClosed):
                await socket.send(append(bytes(13 * 1024**2)))
            await socket.wait_closed()
            return int(socket.close_code)

    assert asyncio.run(run()) == 1009


def test_places_and_silence(triton: Any, tmp_path: Path) -> None:
    """One stream more than there may be is told when to come again; one that says nothing loses its place."""

    async def run(gateway: Running) -> None:
        async with connected(gateway) as first:
            await set_up(first)
            with pytest.raises(websockets.InvalidStatus) as caught:
                async with connected(gateway):
                    pass
            answer = caught.value.response
            assert answer.status_code == 429
            assert int(answer.headers["Retry-After"]) >= 1
            assert json.loads(answer.body or b"")["error"]["code"] == "overloaded"
            async with connected(gateway, origin=f"http://{address(gateway)}") as page:
                assert (await next_event(page))["error"]["code"] == "overloaded"
                await page.wait_closed()
                assert page.close_code == 1013
            assert (await next_event(first))["error"]["code"] == "timeout"
            await first.wait_closed()
        async with connected(gateway) as second:
            await set_up(second)

    with running(tmp_path, triton.url, max_streams=1, stream_idle_timeout_s=10) as gateway:
        asyncio.run(run(gateway))


def test_streams_finish_when_the_gateway_stops(triton: Any, talk: Talk, tmp_path: Path) -> None:
    async def run(gateway: Running) -> str:
        async with connected(gateway) as socket:
            await set_up(socket, input_audio_format="none")
            data = talk.short.read_bytes()
            half = len(data) // 2
            await socket.send(append(data[:half]))
            gateway.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(1)
            await socket.send(append(data[half:]))
            await ask(socket, "input_audio_buffer.done")
            return (await last_result(socket))[0]

    with running(tmp_path, triton.url, drain_timeout_s=30) as gateway:
        assert len(asyncio.run(run(gateway)).split()) > 8
        assert gateway.process.wait(LIMIT_S) == 0
        assert "Traceback" not in gateway.log.read_text()


def test_streams_that_do_not_finish_are_told(triton: Any, tmp_path: Path) -> None:
    async def run(gateway: Running) -> tuple[str, int]:
        async with connected(gateway) as socket:
            await set_up(socket)
            await socket.send(append(bytes(6400)))
            gateway.process.send_signal(signal.SIGTERM)
            _, event = await last_result(socket)
            await socket.wait_closed()
            return event["error"]["code"], socket.close_code

    with running(tmp_path, triton.url, drain_timeout_s=1) as gateway:
        assert asyncio.run(run(gateway)) == ("server_unavailable", 1012)
        assert gateway.process.wait(LIMIT_S) == 0


def test_without_triton(tmp_path: Path, talk: Talk) -> None:
    with running(tmp_path, NOWHERE) as gateway:
        talked = realtime_asr_client(["--server", address(gateway), "--input-file", str(talk.short)])
        assert [error["code"] for error in talked.errors] == ["server_unavailable"]
        assert gateway.stop() == 0


@pytest.mark.parametrize(
    "frames",
    [
        b"\x81\x82\x00\x00\x00\x00\xff\xfe",  # text that is no UTF-8
        b"\x81\x02{}",  # not masked
        b"\x83\x80\x00\x00\x00\x00",  # an opcode that is not there
        b"\xc1\x80\x00\x00\x00\x00",  # compressed, which was not agreed on
        b"\x80\x80\x00\x00\x00\x00",  # the rest of a message that has not begun
        b"\x89\xfe\x01\x00" + bytes(4 + 256),  # a ping that is too long
        b"\x88\x81\x00\x00\x00\x00x",  # half a close code
        b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",  # eight exabytes
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_frames_that_are_none(gateway: Running, frames: bytes) -> None:
    host, _, port = address(gateway).partition(":")
    with socket.create_connection((host, int(port)), timeout=LIMIT_S) as wire:
        head = f"GET {PATH} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        wire.sendall(head.encode())
        assert b"101 Switching Protocols" in wire.recv(4096)
        wire.sendall(frames)
        while wire.recv(4096):  # until the gateway closes
            pass
    assert "Traceback" not in gateway.log.read_text()


def test_streams_that_go_wrong_leave_nothing(gateway: Running, talk: Talk) -> None:
    """Clients that vanish, lie and send noise: memory and open files are where they were."""
    rng = np.random.default_rng(1)
    process = psutil.Process(gateway.process.pid)
    good = talk.short.read_bytes()
    noise = [
        "",
        "{",
        "[1]",
        '{"type": 3}',
        '{"type":"response.create"}',
        "\ud83d\ude00",
        "[" * 50_000,
        "null",
    ]

    async def one(number: int) -> None:
        async with connected(gateway) as socket:
            await set_up(socket, input_audio_format="none")
            await socket.send(noise[number % len(noise)])
            assert (await next_event(socket))["type"] == "error"
            await socket.send(rng.bytes(100))
            assert (await next_event(socket))["type"] == "error"
            damaged = bytearray(good)
            for place in rng.integers(0, len(damaged), 30):
                damaged[place] = rng.integers(0, 256)
            if number % 3 == 0:
                damaged[:4] = b"LIES"
            for begin in range(0, int(rng.integers(9000, len(damaged))), 9000):
                await socket.send(append(bytes(damaged[begin : begin + 9000])))
            if number % 2:
                socket.transport.abort()

    async def crowd(count: int) -> None:
        for number in range(count):
            try:
                await one(number)
            except websockets.ConnectionClosed:
                continue

    asyncio.run(crowd(20))
    files, memory = process.num_fds(), process.memory_info().rss
    asyncio.run(crowd(60))
    deadline = time.monotonic() + LIMIT_S
    while process.num_fds() > files + 5 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert process.num_fds() <= files + 5
    assert process.memory_info().rss < memory + 40 * 1024**2
    assert realtime_asr_client(["--server", address(gateway), "--input-file", str(talk.short)]).text
    assert "Traceback" not in gateway.log.read_text()


def test_the_log_holds_no_words(gateway: Running, recognised: str) -> None:
    log = gateway.log.read_text()
    assert '"method": "websocket", "route": "/v1/realtime"' in log
    assert not any(part in log for part in (recognised[:12], "morning", "report", KEY))
