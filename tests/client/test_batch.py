from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from orchestrator.client import SpeechClient
from orchestrator.client.outputs import write_text
from orchestrator.errors import (
    ConfigurationError,
    DiskFullError,
    ServerUnavailableError,
    TranscriptFormatError,
)
from orchestrator.settings import ClientSettings, Settings


@pytest.fixture
def client(fake: Any) -> Any:
    with SpeechClient(fake.url) as made:
        yield made


@pytest.fixture
def recordings(tmp_path: Path, tools: Any) -> list[Path]:
    """Three files that say different things."""
    paths = []
    for index in range(3):
        path = tmp_path / "in" / f"r{index}.wav"
        path.parent.mkdir(exist_ok=True)
        words = " ".join(tools.TEXT.split()[: index + 3])
        soundfile.write(path, tools.spoken(words), 16_000, subtype="FLOAT")
        paths.append(path)
    return paths


def status(results: list[Any]) -> list[str]:
    return [result.status for result in results]


def test_every_file_in_every_format(client: Any, recordings: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    results = client.transcribe_many(recordings, out, formats=["json", "txt"], diarize=False)
    assert status(results) == ["done"] * 3
    assert results[1].outputs == (out / "r1.json", out / "r1.txt")
    assert json.loads((out / "r1.json").read_text())["segments"][0]["text"] == "it was the best"
    assert "it was the best of" in (out / "r2.txt").read_text()
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == [
        f"r{index}.{kind}" for index in range(3) for kind in ("json", "txt")
    ]
    assert results[1].duration_s == pytest.approx(3.0)
    assert json.dumps(results[1].to_dict())


def test_a_second_run_does_only_what_is_missing(
    client: Any, fake: Any, recordings: list[Path], tmp_path: Path, tools: Any
) -> None:
    out = tmp_path / "out"
    client.transcribe_many(recordings, out, diarize=False)
    (out / "r1.json").unlink()
    fake.seen.clear()
    assert status(client.transcribe_many(recordings, out, diarize=False)) == ["skipped", "done", "skipped"]
    assert len(fake.seen) == 1
    assert status(client.transcribe_many(recordings, out, diarize=False)) == ["skipped"] * 3


def test_other_options_or_another_recording_are_done_again(
    client: Any, recordings: list[Path], tmp_path: Path, tools: Any
) -> None:
    out = tmp_path / "out"
    client.transcribe_many(recordings, out, diarize=False)
    assert status(client.transcribe_many(recordings, out, diarize=False, language="en")) == ["done"] * 3
    assert (
        status(client.transcribe_many(recordings, out, diarize=False, language="en", timeout=50))
        == ["skipped"] * 3
    ), "a time limit changes nothing in the output"
    soundfile.write(recordings[0], tools.spoken("it was"), 16_000, subtype="FLOAT")
    again = client.transcribe_many(recordings, out, diarize=False, language="en")
    assert status(again) == ["done", "skipped", "skipped"]
    assert status(client.transcribe_many(recordings, out, diarize=False, overwrite=True)) == ["done"] * 3


def test_a_corrected_transcript_is_not_overwritten(
    client: Any, recordings: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    client.transcribe_many(recordings[:1], out, formats=["txt"], diarize=False)
    (out / "r0.txt").write_text("corrected by hand")
    assert status(client.transcribe_many(recordings[:1], out, formats=["txt"], diarize=False)) == ["skipped"]
    assert (out / "r0.txt").read_text() == "corrected by hand"


def test_files_of_others_stay(client: Any, fake: Any, recordings: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "r0.txt").write_text("minutes of the meeting")
    results = client.transcribe_many(recordings, out, formats=["txt"], diarize=False)
    assert status(results) == ["failed", "done", "done"]
    assert "was not written by spark-speech" in results[0].error.message
    assert (out / "r0.txt").read_text() == "minutes of the meeting"
    results = client.transcribe_many(recordings, out, formats=["txt"], diarize=False, overwrite=True)
    assert status(results) == ["done"] * 3


def test_one_bad_file_does_not_stop_the_others(client: Any, recordings: list[Path], tmp_path: Path) -> None:
    recordings[1].write_bytes(b"this is no audio")
    missing = tmp_path / "in" / "missing.wav"
    out = tmp_path / "out"
    results = client.transcribe_many([*recordings, missing], out, diarize=False)
    assert status(results) == ["done", "failed", "done", "failed"]
    assert results[1].error.path == str(recordings[1])
    assert str(missing) in str(results[3].error)
    assert sorted(path.name for path in out.glob("*")) == [".spark-speech", "r0.json", "r2.json"]
    assert [path.name for path in sorted((out / ".spark-speech").iterdir())] == ["r0.json", "r2.json"]


def test_a_server_that_is_away_is_waited_for_once(recordings: list[Path], tmp_path: Path) -> None:
    settings = Settings(client=ClientSettings(retries=0))
    with SpeechClient("127.0.0.1:9", settings=settings) as client:
        results = client.transcribe_many(recordings, tmp_path / "out", diarize=False)
    assert status(results) == ["failed"] * 3
    assert all(isinstance(result.error, ServerUnavailableError) for result in results)


def test_same_names_do_not_collide(client: Any, recordings: list[Path], tmp_path: Path, tools: Any) -> None:
    other = tmp_path / "other" / "r0.wav"
    other.parent.mkdir()
    soundfile.write(other, tools.spoken("it was"), 16_000, subtype="FLOAT")
    flac = tmp_path / "in" / "r1.flac"
    soundfile.write(flac, tools.spoken("it"), 16_000)
    sources = [recordings[0], other, recordings[1], flac]
    results = client.transcribe_many(sources, tmp_path / "out", diarize=False)
    outputs = [result.outputs[0] for result in results]
    assert len(set(outputs)) == 4
    texts = [json.loads(path.read_text())["segments"] for path in outputs]
    assert [len(segments[0]["words"]) for segments in texts] == [3, 2, 4, 1]
    assert status(client.transcribe_many(sources, tmp_path / "out", diarize=False)) == ["skipped"] * 4


def test_same_names_of_two_runs_do_not_collide(
    client: Any, recordings: list[Path], tmp_path: Path, tools: Any
) -> None:
    other = tmp_path / "other" / "r0.wav"
    other.parent.mkdir()
    soundfile.write(other, tools.spoken("it was"), 16_000, subtype="FLOAT")
    out = tmp_path / "out"
    (first,) = client.transcribe_many(recordings[:1], out, diarize=False)
    (second,) = client.transcribe_many([other], out, diarize=False)
    assert first.outputs != second.outputs
    assert status(client.transcribe_many(recordings[:1], out, diarize=False)) == ["skipped"]
    assert status(client.transcribe_many([other], out, diarize=False)) == ["skipped"]


def test_an_interrupted_run_leaves_no_half_output(
    client: Any, fake: Any, recordings: list[Path], tmp_path: Path
) -> None:
    """Closing the client stands in for Ctrl-C: it ends the calls in the middle."""
    out = tmp_path / "out"
    fake.faults.append(fake.hang)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results = client.transcribe_many(recordings[:1], out, diarize=False)
            failures.extend(result.error for result in results)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test looks at it
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert fake.entered.wait(60)
    client.close()
    thread.join(60)
    assert len(failures) == 1
    assert [path for path in out.rglob("*") if path.is_file()] == []


def test_a_run_that_died_while_writing_is_taken_up_again(
    client: Any, recordings: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "r0.txt").mkdir(parents=True)
    chosen = {"formats": ["json", "txt"], "diarize": False}
    (result,) = client.transcribe_many(recordings[:1], out, overwrite=True, **chosen)
    assert result.status == "failed"
    assert (out / "r0.json").exists()
    assert list(out.glob(".*.part")) == []
    (out / "r0.txt").rmdir()
    assert status(client.transcribe_many(recordings[:1], out, **chosen)) == ["done"]
    assert status(client.transcribe_many(recordings[:1], out, **chosen)) == ["skipped"]


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, DiskFullError), (errno.EIO, ConfigurationError)])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    path = tmp_path / "t.json"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(kind, match=r"t\.json"):
        write_text(path, "new")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("t.json", "old")]


def test_a_damaged_record_means_do_it_again(client: Any, recordings: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    client.transcribe_many(recordings[:1], out, diarize=False)
    (out / ".spark-speech" / "r0.json").write_text("{")
    (result,) = client.transcribe_many(recordings[:1], out, diarize=False, overwrite=True)
    assert result.status == "done"
    assert status(client.transcribe_many(recordings[:1], out, diarize=False)) == ["skipped"]


def test_files_at_once_is_a_bound(client: Any, fake: Any, recordings: list[Path], tmp_path: Path) -> None:
    results = client.transcribe_many(recordings, tmp_path / "out", diarize=False, files_at_once=1)
    assert status(results) == ["done"] * 3
    assert fake.most_at_once == 1


def test_nonsense_is_refused_before_any_work(
    client: Any, fake: Any, recordings: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="more than once"):
        client.transcribe_many([recordings[0], recordings[0]], tmp_path / "out")
    with pytest.raises(TranscriptFormatError, match="docx"):
        client.transcribe_many(recordings, tmp_path / "out", formats=["docx"])
    with pytest.raises(ConfigurationError, match="num_speakers"):
        client.transcribe_many(recordings, tmp_path / "out", num_speakers=0)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match="output folder"):
        client.transcribe_many(recordings, tmp_path / "file")
    assert fake.seen == []


def test_nothing_to_do(client: Any, tmp_path: Path) -> None:
    assert client.transcribe_many([], tmp_path / "out") == []


def test_progress_counts_files_and_windows(client: Any, recordings: list[Path], tmp_path: Path) -> None:
    lines: dict[str, list[float]] = {}

    class Task:
        def __init__(self, name: str) -> None:
            self.done = lines.setdefault(name, [])

        def update(self, *, completed: Any = None, total: Any = None, description: Any = None) -> None:
            self.done.append(completed)

        def finish(self, description: Any = None) -> None:
            self.done.append(np.inf)

    class Reporter:
        def task(self, description: str, total: Any = None) -> Task:
            return Task(description)

    client.transcribe_many(recordings, tmp_path / "out", progress=Reporter())
    assert lines["files"] == [1, 2, 3, np.inf]
    assert lines["r0.wav"] == [0, 1, 2, np.inf]
