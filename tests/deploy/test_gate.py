from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import soundfile

from orchestrator.cli.app import main
from orchestrator.client import SpeechClient
from orchestrator.deploy import recording
from orchestrator.deploy.gate import (
    Bounds,
    Finding,
    Gate,
    GateReport,
    Outcome,
    judge_log,
    judge_memory,
    judge_transcript,
)
from orchestrator.deploy.gateway_probe import GatewayProbe
from orchestrator.deploy.recording import KnownRecording
from orchestrator.errors import (
    ConfigurationError,
    InvalidRequestError,
    OverloadedError,
    ServerUnavailableError,
    ServiceError,
)
from orchestrator.settings import Settings
from tests.client.conftest import TEXT, Model, diarization, hear, recognition, spoken
from tests.client.stream.conftest import FakeStreams
from tests.client.stream.simulated import RATE, say

ROOMY = Bounds(memory_floor_mib=0)
ONCE = Settings(client={"retries": 0, "stream_reconnects": 0})  # type: ignore[arg-type]


@pytest.fixture
def server() -> Iterator[FakeStreams]:
    made = FakeStreams()
    made.models["echo"] = Model(
        hear(TEXT), {"task": "recognize", "languages": "en", "max_window_s": "30", "rank": "1"}
    )
    made.models["diarizer"] = Model(
        lambda audio, options: diarization([(0, 3000, 0), (3000, 60_000, 1)]), {"task": "diarize"}
    )
    made.models["ears"].parameters["languages"] = "fr"
    made.start()
    yield made
    made.stop()


@pytest.fixture
def known(tmp_path: Path) -> KnownRecording:
    path = tmp_path / "known.wav"
    soundfile.write(path, spoken(TEXT), 16_000, subtype="FLOAT")
    return KnownRecording(path, TEXT)


def outcome(report: GateReport, name: str) -> Finding:
    (found,) = [finding for finding in report.findings if finding.name == name]
    return found


def test_a_sound_server_passes(server: FakeStreams, known: KnownRecording) -> None:
    with SpeechClient(server.url, settings=ONCE) as client:
        report = Gate(client, known, ROOMY, expected=("echo", "ears", "diarizer")).run()
    assert report.passed, report.summary
    assert {finding.name: finding.outcome for finding in report.findings} == {
        "models": "passed",
        "transcript by echo": "passed",
        "live stream by ears": "skipped",  # it does not know the recording's language
        "speakers": "passed",
        "memory": "passed",
    }
    assert outcome(report, "transcript by echo").wer == 0
    assert report.summary.startswith("passed: transcript by echo 0% errors")


def test_a_model_that_hears_rubbish_does_not_pass(server: FakeStreams, known: KnownRecording) -> None:
    server.models["echo"].handler = lambda audio, options: recognition([("rubbish", 0, 500)])
    with SpeechClient(server.url, settings=ONCE) as client:
        report = Gate(client, known, ROOMY).run()
    assert not report.passed
    found = outcome(report, "transcript by echo")
    assert found.outcome is Outcome.FAILED
    assert "100% of the words are wrong, at most 40%" in found.message
    assert "rubbish" not in json.dumps(report.to_dict()), "reports are logged: what was heard stays out"


def test_a_live_stream_is_part_of_it(server: FakeStreams, tmp_path: Path) -> None:
    server.models["ears"].parameters["languages"] = "en"
    path = tmp_path / "talk.wav"
    soundfile.write(path, say([(level, 160, 400) for level in range(1, 9)]), RATE, subtype="PCM_16")
    words = " ".join(f"w{level}" for level in range(1, 9))
    server.models["echo"].handler = lambda audio, options: recognition(
        [(word, 100 * place, 100 * place + 50) for place, word in enumerate(words.split())]
    )
    with SpeechClient(server.url, settings=ONCE) as client:
        assert Gate(client, KnownRecording(path, words), ROOMY).run().passed
        report = Gate(client, KnownRecording(path, "other words altogether than these ones"), ROOMY).run()
        assert outcome(report, "live stream by ears").failed
    assert server.live(0)


def test_all_that_is_wrong_is_named(server: FakeStreams, known: KnownRecording) -> None:
    server.models["broken"] = Model(None, {}, "UNAVAILABLE", "the weights are of another kind")
    server.models["diarizer"].handler = lambda audio, options: diarization([])
    with SpeechClient(server.url, settings=ONCE) as client:
        report = Gate(
            client,
            known,
            Bounds(max_latency_s=0.0, memory_floor_mib=10**9),
            GatewayProbe("http://127.0.0.1:9"),
            expected=("echo", "gone"),
            logs=(("log of x", ("E1122 boom",)),),
        ).run()
    failed = {finding.name: finding.message for finding in report.findings if finding.failed}
    assert list(failed) == [
        "models",
        "transcript by echo",
        "speakers",
        "transcript over the gateway",
        "memory",
        "log of x",
    ]
    assert failed["models"] == "broken is unavailable: the weights are of another kind; gone is missing"
    assert "at most 0 s are allowed" in failed["transcript by echo"]
    assert all(message in report.summary for message in failed.values())


def test_a_server_that_is_away_is_a_finding(known: KnownRecording) -> None:
    with SpeechClient("127.0.0.1:9", settings=ONCE) as client:
        report = Gate(client, known, ROOMY).run()
    assert not report.passed
    assert "not there" in outcome(report, "models").message


def test_no_recogniser_that_could_hear_it_is_no_pass(server: FakeStreams, known: KnownRecording) -> None:
    with SpeechClient(server.url, settings=ONCE) as client:
        report = Gate(client, KnownRecording(known.path, TEXT, "kn"), ROOMY).run()
    assert outcome(report, "transcript").failed
    assert outcome(report, "transcript by echo").outcome is Outcome.SKIPPED


@pytest.mark.parametrize(
    ("text", "seconds", "passed"),
    [
        ("one two three four", 1.0, True),
        ("one two three", 1.0, True),
        ("one two", 1.0, False),
        ("one two three four", 2.5, False),
    ],
)
def test_bounds_are_inclusive(text: str, seconds: float, passed: bool) -> None:
    found = judge_transcript(
        "x", KnownRecording(Path("a.wav"), "One, two, three, four."), text, seconds, Bounds(0.25, 2.0)
    )
    assert found.failed is not passed


def test_memory_is_judged_in_mebibytes() -> None:
    assert judge_memory(100 * 2**20, Bounds(memory_floor_mib=100)).outcome is Outcome.PASSED
    assert judge_memory(100 * 2**20 - 1, Bounds(memory_floor_mib=100)).failed


def test_a_long_log_is_cut() -> None:
    found = judge_log("log", [f"E line {number} " + "x" * 1000 for number in range(9)])
    assert found.failed
    assert "(and 4 more)" in found.message
    assert len(found.message) < 2000
    assert not judge_log("log", []).failed


def test_the_packaged_recording_says_what_its_text_says() -> None:
    found = recording.packaged()
    assert found.path.is_file()
    assert found.text.split()[:3] == ["hello", "david", "this"]


def test_a_recording_of_ones_own_needs_its_text(tmp_path: Path) -> None:
    audio = tmp_path / "call.wav"
    audio.write_bytes(b"RIFF")
    with pytest.raises(ConfigurationError, match=r"call\.txt"):
        recording.from_files(audio)
    audio.with_suffix(".txt").write_text("... --\n")
    with pytest.raises(ConfigurationError, match="says nothing"):
        recording.from_files(audio)
    audio.with_suffix(".txt").write_text("namaskara\n")
    assert recording.from_files(audio, language="kn").text == "namaskara\n"
    with pytest.raises(ConfigurationError, match=r"gone\.wav"):
        recording.from_files(tmp_path / "gone.wav", audio.with_suffix(".txt"))


class FakeGateway:
    """Answers as told, and remembers what it was sent."""

    def __init__(self) -> None:
        self.status, self.body = 200, json.dumps({"text": TEXT})
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                owner.seen.append((self.path, dict(self.headers), self.rfile.read(length)))
                body = owner.body.encode()
                self.send_response(owner.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    made = FakeGateway()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_the_gateway_is_asked_for_a_transcript(gateway: FakeGateway, known: KnownRecording) -> None:
    probe = GatewayProbe(gateway.url, api_key="geheim")
    probe.check_ready()
    assert probe.transcribe(known.path, language="en") == TEXT
    (ready, _, _), (path, headers, body) = gateway.seen
    assert (ready, path) == ("/v1/health/ready", "/v1/audio/transcriptions")
    assert headers["Authorization"] == "Bearer geheim"
    assert known.path.read_bytes() in body
    assert b'name="language"\r\n\r\nen\r\n' in body


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, InvalidRequestError),
        (429, OverloadedError),
        (503, ServerUnavailableError),
        (400, ServiceError),
    ],
)
def test_what_the_gateway_refuses(
    gateway: FakeGateway, known: KnownRecording, status: int, error: type[ServiceError]
) -> None:
    gateway.status, gateway.body = status, json.dumps({"error": {"message": "not today"}})
    with pytest.raises(error, match="not today"):
        GatewayProbe(gateway.url).transcribe(known.path)


def test_what_is_no_gateway(gateway: FakeGateway, known: KnownRecording) -> None:
    gateway.body = "<html>"
    with pytest.raises(ServiceError, match="no transcript"):
        GatewayProbe(gateway.url).transcribe(known.path)
    for url in ("127.0.0.1:9000", "http://127.0.0.1", "ftp://host:1", "http://host:x"):
        with pytest.raises(ConfigurationError, match="address of a gateway"):
            GatewayProbe(url)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    told = capsys.readouterr().out
    return int(ended.value.code or 0), json.loads(told) if told.startswith("{") else {}


@pytest.fixture
def ask(
    server: FakeStreams,
    known: KnownRecording,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, dict[str, Any]]]:
    monkeypatch.chdir(tmp_path)
    known.path.with_suffix(".txt").write_text(TEXT)

    def call(*more: str) -> tuple[int, dict[str, Any]]:
        wanted = ("--url", server.url, "--recording", str(known.path), "--memory-floor", "0", "--json")
        return run(capsys, "gate", *wanted, *more)

    return call


def test_the_command(
    ask: Callable[..., tuple[int, dict[str, Any]]], gateway: FakeGateway, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets.env"
    secrets.write_text("OTHER=1\nSPARK_SPEECH_GATE_API_KEY='geheim'\n")
    code, told = ask("--gateway", gateway.url, "--secrets", str(secrets))
    assert (code, told["passed"]) == (0, True)
    assert gateway.seen[-1][1]["Authorization"] == "Bearer geheim"
    (tmp_path / "server.log").write_text("all is well\nE1122 01:02:03.4 7 model.cc:12] boom\n")
    code, told = ask("--log", "server.log")
    assert (code, told["passed"]) == (1, False)
    assert told["findings"][-1]["message"] == "E1122 01:02:03.4 7 model.cc:12] boom"
    code, told = ask("--log", "gone.log")
    assert (code, told["error"]) == (2, "ConfigurationError")
    assert ask("--max-latency", "0")[0] == 1
    code, told = ask("--release", "abc")
    assert (code, told["error"]) == (1, "ReleaseNotFoundError")
