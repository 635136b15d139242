from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from orchestrator.engines.whisper import ct2_folder
from orchestrator.engines.whisper.languages import CODES
from orchestrator.errors import ModelLoadError


def head(name: str = "WhisperSpec") -> bytes:
    text = name.encode() + b"\0"
    return struct.pack("<IH", 6, len(text)) + text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a folder needs to be taken for Whisper's, without weights."""
    (tmp_path / "model.bin").write_bytes(head())
    (tmp_path / "config.json").write_text(json.dumps({"lang_ids": [50259]}))
    (tmp_path / "vocabulary.json").write_text(json.dumps(["x"] * 51_865))
    names = ["transcribe", "notimestamps", *CODES]
    tokens = {"added_tokens": [{"content": f"<|{name}|>"} for name in names]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokens))
    return tmp_path


def inspect(folder: Path) -> tuple[str, ...]:
    return ct2_folder.inspect(ct2_folder.files_in(folder))


def refused(folder: Path) -> ModelLoadError:
    with pytest.raises(ModelLoadError) as caught:
        inspect(folder)
    assert caught.value.fix
    assert caught.value.model == "whisper_ct2"
    return caught.value


@pytest.mark.parametrize(("vocabulary", "count"), [(51_864, 1), (51_865, 99), (51_866, 100)])
def test_the_vocabulary_says_the_languages(folder: Path, vocabulary: int, count: int) -> None:
    (folder / "vocabulary.json").unlink()
    (folder / "vocabulary.txt").write_text("x\n" * vocabulary)
    assert len(inspect(folder)) == count


@pytest.mark.parametrize("name", ["model.bin", "config.json", "vocabulary.json", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert name in refused(folder).message


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "tokenizer.json"])
def test_a_damaged_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b'{"half')
    assert f"{name} is damaged" in refused(folder).message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (head("TransformerSpec"), "'TransformerSpec' is not Whisper"),
        (b"", "damaged"),
        (b"\xff" * 300, "damaged"),
        (b"lmgg" + bytes(100), "whisper.cpp"),
    ],
)
def test_another_model_is_refused(folder: Path, data: bytes, reason: str) -> None:
    (folder / "model.bin").write_bytes(data)
    assert reason in refused(folder).message


@pytest.mark.parametrize(
    ("name", "reason"),
    [("model.safetensors", "PyTorch"), ("ggml-base.bin", "whisper.cpp"), ("x", "model.bin")],
)
def test_other_weights_are_recognised(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / name).write_bytes(b"")
    error = refused(tmp_path)
    assert reason in error.message
    assert "ct2-transformers-converter" in str(error.fix)


def test_a_folder_that_would_fail_later_is_refused_now(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"lang_ids": []}))
    assert "lang_ids" in refused(folder).message
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"content": "<s>"}]}))
    assert "<|transcribe|>" in refused(folder).message
    (folder / "vocabulary.json").write_text(json.dumps(["x"] * 32_000))
    assert "32000 tokens" in refused(folder).message


def test_no_folder_is_told(tmp_path: Path) -> None:
    assert ct2_folder.files_in(tmp_path / "none") == {}
    assert "model.bin" in refused(tmp_path / "none").message
