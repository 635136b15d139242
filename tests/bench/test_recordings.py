"""Finding recordings and their references."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.bench.recordings import SpokenLine, from_folder, packaged
from orchestrator.errors import ConfigurationError


def test_the_packaged_recording_has_two_speakers_and_its_files() -> None:
    recording = packaged()
    assert recording.audio.exists()
    assert recording.rttm is not None
    assert recording.rttm.exists()
    assert {line.speaker for line in recording.lines} == {"Diane", "Sheila"}
    assert recording.lines[0] == SpokenLine("Diane", 6.68, 7.16, "Hello?")


def test_a_manifest_lists_recordings_in_order(tmp_path: Path) -> None:
    entries = [
        {"path": "b.wav", "text": "b", "rttm": "b.rttm", "channels": 2, "speakers": 2},
        {"path": "a.wav", "text": None, "channels": 2, "speakers": 1},
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(entries))
    (tmp_path / "b.stm").write_text(";; a comment\nb 1 ann 0.0 1.5 hello there\n")
    first, second = from_folder(tmp_path)
    assert (first.name, first.text, first.rttm) == ("b.wav", "b", tmp_path / "b.rttm")
    assert (first.separate, second.separate) == (True, False), "two channels of one speaker are one recording"
    assert first.lines == (SpokenLine("ann", 0.0, 1.5, "hello there"),)
    assert (second.name, second.text, second.rttm, second.lines) == ("a.wav", None, None, ())


@pytest.mark.parametrize("content", ["{", '{"path": 1}', "[1]", '[{"text": "no path"}]'])
def test_a_wrong_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ConfigurationError, match=r"manifest\.json"):
        from_folder(tmp_path)


def test_a_folder_without_manifest_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r'"path"') as caught:
        from_folder(tmp_path)
    assert caught.value.exit_code == 2
