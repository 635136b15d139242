"""The verb against a server that speaks the real protocol."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from orchestrator.cli import main
from tests.client.stream.simulated import say

WORDS = [(7, 200, 50), (8, 200, 600), (9, 150, 700), (10, 300, 400)]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    soundfile.write(tmp_path / "talk.wav", say(WORDS), 16_000, subtype="PCM_16")
    soundfile.write(tmp_path / "long.wav", say(WORDS * 20), 16_000, subtype="PCM_16")
    # Its first word can be seen alone also where the terminal is shown it seconds late.
    soundfile.write(tmp_path / "slow.wav", say([(7, 6000, 50), *WORDS[1:]]), 16_000, subtype="PCM_16")
    (tmp_path / "talk.pcm").write_bytes(say(WORDS).tobytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(
    server: Any, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """The command in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def call(*arguments: str) -> tuple[int, str, str]:
        address = [] if "--url" in arguments else ["--url", server.url]
        with pytest.raises(SystemExit) as done:
            main(["stream", *arguments, *address])
        out, err = capsys.readouterr()
        assert isinstance(done.value.code, int)
        return done.value.code, out, err

    return call


def test_finals_as_lines(run: Run) -> None:
    code, out, err = run("talk.wav", "--no-realtime", "--no-diarize")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["[00:00.0] w7 w8", "[00:01.0] w9", "[00:01.9] w10"]


def test_an_object_a_line(run: Run) -> None:
    code, out, _ = run("talk.wav", "--no-realtime", "--no-diarize", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert {event["event"] for event in events} == {"partial", "final", "completed"}
    finals = [event for event in events if event["event"] == "final"]
    assert [final["segment"]["text"] for final in finals] == ["w7 w8", "w9", "w10"]
    assert events[-1]["transcript"]["source"] == "talk.wav"


def test_the_transcript_at_the_end(run: Run, folder: Path) -> None:
    code, out, err = run("talk.wav", "--no-realtime", "--no-diarize", "--format", "srt")
    assert code == 0
    assert out.startswith("1\n00:00:00,000 --> ")
    assert "[00:00.0] w7 w8" in err
    code, out, err = run("talk.wav", "--no-realtime", "--no-diarize", "-o", "out", "--format", "json,vtt")
    assert code == 0
    assert json.loads((folder / "out/talk.json").read_text())["segments"][0]["text"] == "w7 w8"
    assert "out/talk.vtt" in err
    (folder / "out/talk.txt").write_text("mine")
    code, _, err = run("talk.wav", "--no-realtime", "-o", "out", "--format", "txt")
    assert code == 2
    assert "talk.txt is there already" in err
    assert (folder / "out/talk.txt").read_text() == "mine"


def test_speakers_in_front_of_their_words(run: Run, server: Any, tools: Any) -> None:
    server.models["diarizer"] = tools.Model(
        lambda audio, options: tools.diarization([(0, 60_000, 0)], speakers=1), {"task": "diarize"}
    )
    code, out, _ = run("talk.wav", "--no-realtime")
    assert code == 0
    assert "SPEAKER_00: w7 w8" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["talk.wav", "--format", "srt,vtt"], "--output"),
        (["talk.wav", "--format", "srt", "--json"], "--output"),
        (["talk.wav", "--format", "docx"], "docx"),
        (["talk.wav", "--sample-rate", "8000"], "standard input"),
        (["talk.wav", "--chunk", "99999"], "chunk_ms"),
        (["missing.wav"], "missing.wav"),
        (["talk.wav", "--language", "kn"], "offered: en"),
        (["talk.wav", "--engine", "nobody"], "nobody"),
        (["talk.wav", "--url", "127.0.0.1:9"], "127.0.0.1:9"),
    ],
)
def test_what_cannot_work(run: Run, server: Any, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert code in (1, 2)
    assert message in err
    assert "Traceback" not in err
    assert out == "" or json.loads(out)["error"] == "UsageError"
    assert server.chunks == []


def test_a_failure_as_json_is_the_last_line(run: Run) -> None:
    code, out, err = run("missing.wav", "--json")
    assert code == 1
    assert json.loads(out) == {"event": "error", **json.loads(out)}
    assert json.loads(out)["error"] == "AudioNotFoundError"
    assert "missing.wav" in err


@pytest.mark.integration
def test_a_server_that_stays_away_costs_nothing_that_was_final(
    server: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(server, "long.wav", "--no-diarize", "-o", "out", "--set", reconnect="0.3")
    wait_for_line(process)
    server.die()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "is not there, or went away" in err
    assert json.loads((folder / "out/long.json").read_text())["segments"][0]["text"] == "w7 w8"


def start(server: Any, *arguments: str, reconnect: str = "5", **options: Any) -> subprocess.Popen[str]:
    arguments = tuple(argument for argument in arguments if argument != "--set")
    limit = ["--set", f"client.stream_reconnect_s={reconnect}"]
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", *limit, "stream", *arguments, "--url", server.url],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
    )


def wait_for_line(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert "w7 w8" in process.stdout.readline()


@pytest.mark.integration
def test_interruption_ends_with_what_was_said(server: Any, folder: Path) -> None:
    process = start(
        server, "long.wav", "--no-diarize", "-o", "out", env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    wait_for_line(process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in err
    assert json.loads((folder / "out/long.json").read_text())["segments"][0]["text"] == "w7 w8"
    assert server.live(0)
    assert server.chunks[-1].end


@pytest.mark.integration
def test_a_second_interruption_does_not_wait(server: Any, folder: Path) -> None:
    process = start(server, "long.wav", "--no-diarize", env={**os.environ, "PYTHONUNBUFFERED": "1"})
    wait_for_line(process)
    server.chunk_faults += [server.hang] * 2
    assert server.entered.wait(60)
    process.send_signal(signal.SIGINT)
    time.sleep(2)
    for _ in range(3):  # two in too short a time count as one; one too many would disturb the end itself
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(25)
            break
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.integration
def test_samples_on_standard_input(server: Any, folder: Path) -> None:
    with (folder / "talk.pcm").open("rb") as pcm:
        process = start(server, "-", "--no-diarize", stdin=pcm)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert [line.split("] ")[1] for line in out.splitlines()] == ["w7 w8", "w9", "w10"]


@pytest.mark.integration
def test_standard_input_that_stays_silent_does_not_hold_up_the_end(server: Any, folder: Path) -> None:
    process = start(server, "-", "--no-diarize", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(bytes(say(WORDS).tobytes()).decode("latin-1"))
    process.stdin.flush()
    wait_for_line(process)
    process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.returncode == 0
    process.communicate()


@pytest.mark.integration
def test_a_terminal_shows_what_is_not_final_and_scrolls_what_is(server: Any, folder: Path) -> None:
    primary, secondary = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    process = start(
        server,
        "slow.wav",
        "--no-diarize",
        stdout=secondary,
        stderr=secondary,
        stdin=secondary,
        env=environment,
    )
    os.close(secondary)
    shown = b""
    while True:
        try:
            data = os.read(primary, 65536)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        shown += data
    os.close(primary)
    assert process.wait(60) == 0
    text = shown.decode()
    assert "\x1b[2K" in text, "the partial line is redrawn"
    assert "w7\r" in text or "w7\x1b" in text
    assert "w10" in text
    assert "Traceback" not in text
