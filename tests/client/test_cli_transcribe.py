"""The verb against a server that speaks the real protocol."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from orchestrator.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(fake: Any, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def call(*arguments: str) -> tuple[int, str, str]:
        address = [] if "--url" in arguments else ["--url", fake.url]
        with pytest.raises(SystemExit) as done:
            main(["transcribe", *arguments, *address])
        out, err = capsys.readouterr()
        assert isinstance(done.value.code, int)
        return done.value.code, out, err

    return call


@pytest.fixture
def folder(tmp_path: Path, tools: Any) -> Path:
    for name, words in (("a.wav", "it was the best of times"), ("b.wav", "it was")):
        soundfile.write(tmp_path / name, tools.spoken(words), 16_000, subtype="FLOAT")
    return tmp_path


def test_one_file_to_standard_output(run: Run, fake: Any, folder: Path) -> None:
    code, out, err = run("a.wav", "--language", "en", "--speakers", "2")
    assert (code, "Traceback" in err) == (0, False)
    assert "it was the best of" in out
    assert {seen.model: seen.options for seen in fake.seen} == {
        "echo": {"language": "en"},
        "diarizer": {"num_speakers": 2},
    }
    assert sorted(path.name for path in folder.iterdir()) == ["a.wav", "b.wav"]


@pytest.mark.parametrize("arguments", [["--json"], ["--format", "json"]])
def test_one_file_as_json(run: Run, fake: Any, folder: Path, arguments: list[str]) -> None:
    code, out, _ = run("a.wav", "--no-diarize", *arguments)
    assert code == 0
    assert json.loads(out)["segments"][0]["text"] == "it was the best of times"


def test_a_subtitle_on_standard_output(run: Run, fake: Any, folder: Path) -> None:
    code, out, _ = run("b.wav", "--no-diarize", "--format", "srt")
    assert code == 0
    assert "00:00:00,500 --> " in out


def test_many_files_into_a_folder_and_again(run: Run, fake: Any, folder: Path) -> None:
    arguments = ("a.wav", "b.wav", "-o", "out", "--format", "json,vtt", "--no-diarize", "--json")
    code, out, _ = run(*arguments)
    assert code == 0
    assert [result["status"] for result in json.loads(out)] == ["done", "done"]
    assert sorted(path.name for path in (folder / "out").glob("*.*")) == [
        ".spark-speech",
        "a.json",
        "a.vtt",
        "b.json",
        "b.vtt",
    ]
    code, out, _ = run(*arguments)
    assert [result["status"] for result in json.loads(out)] == ["skipped", "skipped"]


def test_a_failing_file_is_in_a_table_and_the_code(run: Run, fake: Any, folder: Path) -> None:
    (folder / "bad.wav").write_bytes(b"no audio at all")
    code, out, err = run("a.wav", "bad.wav", "b.wav", "-o", "out", "--no-diarize")
    assert code == 1
    assert "a.wav -> out/a.json" in out
    assert "b.wav -> out/b.json" in out
    assert "1 of 3 files failed" in err
    assert "bad.wav" in err
    assert "AudioDecodeError" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.wav", "b.wav"], "--output"),
        (["a.wav", "--format", "srt,vtt"], "--output"),
        (["a.wav", "--format", "docx"], "docx"),
        (["a.wav", "--channels", "left"], "channels"),
        (["a.wav", "--speakers", "0"], "speakers"),
        (["a.wav", "--min-speakers", "3", "--max-speakers", "2"], "min_speakers"),
        (["missing.wav"], "missing.wav"),
        (["a.wav", "--language", "kn"], "offered: de, en"),
        (["a.wav", "--engine", "nobody"], "nobody"),
        (["a.wav", "--url", "http://nowhere"], "not an address"),
        (["a.wav", "--url", "127.0.0.1:9", "--timeout", "3"], "127.0.0.1:9"),
    ],
)
def test_what_cannot_work(run: Run, fake: Any, folder: Path, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert code in (1, 2)
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert fake.seen == []


@pytest.mark.integration
def test_interruption_leaves_nothing_half_done(fake: Any, folder: Path) -> None:
    fake.faults.append(fake.hang)
    arguments = ["transcribe", "a.wav", "b.wav", "-o", "out", "--no-diarize", "--url", fake.url]
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )
    assert fake.entered.wait(90)
    killer = threading.Timer(0.3, process.send_signal, (signal.SIGINT,))
    killer.start()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert fake.cancelled.wait(30)
    written = [path for path in (folder / "out").iterdir() if path.is_file()]
    assert len(written) <= 1, "the file under way leaves nothing"
    assert all(json.loads(path.read_text())["segments"] for path in written)
