"""What a checkpoint's files say, read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engines.whisper.ct2_folder import files_in
from orchestrator.engines.whisper.languages import CODES, tags_of
from orchestrator.engines.whisper_native.checkpoint import shape_in
from orchestrator.engines.whisper_native.inspection import inspect
from orchestrator.engines.whisper_native.tokens import BYTES, tokens_in
from orchestrator.errors import ModelLoadError

CONFIG: dict[str, Any] = {
    "model_type": "whisper",
    "num_mel_bins": 80,
    "d_model": 8,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "max_source_positions": 1500,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 8,
    "max_target_positions": 448,
    "vocab_size": 400,
}
MARKS = ("endoftext", "startoftranscript", "en", "kn", "transcribe", "nocaptions", "notimestamps", "0.00")


def letters(text: str) -> str:
    """A piece as the vocabulary writes it."""
    names = {byte: char for char, byte in BYTES.items()}
    return "".join(names[byte] for byte in text.encode())


def write(folder: Path, *, whole: bool = True, **generation: Any) -> dict[str, Path]:
    pieces = {letters(text): token for token, text in enumerate((" hello", " wörld", ",", "ಕ"))}
    marks = {f"<|{name}|>": 300 + place for place, name in enumerate(MARKS)}
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "generation_config.json").write_text(json.dumps(generation))
    if whole:
        added = [{"content": name, "id": token} for name, token in marks.items()]
        data = {"model": {"vocab": pieces}, "added_tokens": added}
        (folder / "tokenizer.json").write_text(json.dumps(data))
    else:
        (folder / "vocab.json").write_text(json.dumps(pieces))
        (folder / "added_tokens.json").write_text(json.dumps(marks))
    return files_in(folder)


@pytest.mark.parametrize("whole", [True, False])
def test_tokens_of_either_kind_of_tokenizer(tmp_path: Path, whole: bool) -> None:
    given = {"suppress_tokens": [-1, 2], "begin_suppress_tokens": [1], "alignment_heads": [[0, 1]]}
    tokens = tokens_in(write(tmp_path, whole=whole, **given), 400, "x")
    assert tokens.text([0, 1, 2, 300, 3]) == " hello wörld,ಕ"
    assert tokens.prompt("kn") == (301, 303, 304, 306)
    assert (tokens.end, tokens.no_speech, dict(tokens.languages)) == (300, 305, {"en": 302, "kn": 303})
    assert (tokens.suppressed, tokens.suppressed_first, tokens.alignment_heads) == ((2,), (1,), ((0, 1),))
    never = tokens.suppress(400)
    assert {2, 301, 307, 4, 399} <= set(never), "marks, times and tokens without a name"
    assert not {0, 1, 300} & set(never)


def test_a_checkpoint_that_knows_english_only_has_a_short_prompt(tmp_path: Path) -> None:
    files = write(tmp_path, is_multilingual=False)
    tokens = tokens_in(files, 400, "x")
    assert tokens.prompt(None) == (301, 306)
    assert inspect(files) == ("en",)


def test_inspection_tells_the_languages_by_their_tags(tmp_path: Path) -> None:
    assert inspect(write(tmp_path)) == ("en", "kn")
    assert tags_of(["jw"]) == ("jv",)
    assert "jw" in CODES


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["model.bin", "config.json"], "whisper_ct2"),
        (["ggml-tiny.bin"], "whisper_cpp"),
        (["config.json", "pytorch_model.bin"], "safe_serialization"),
        (["tiny.pt"], "OpenAI"),
        (["config.json"], "lacks model.safetensors"),
        ([], "no files"),
    ],
)
def test_other_folders_are_refused_by_what_they_look_like(
    tmp_path: Path, names: list[str], said: str
) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelLoadError, match=said) as caught:
        shape_in(files_in(tmp_path), "x")
    assert "config.json" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "wav2vec2"}, "wav2vec2"),
        ({"d_model": 9}, "multiple"),
        ({"encoder_layers": 0}, "encoder_layers"),
        ({"decoder_layers": "six"}, "decoder_layers"),
        ({"vocab_size": 10**12}, "vocab_size"),
        ({"activation_function": "relu"}, "activation"),
    ],
)
def test_a_config_that_is_not_whispers(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    files = write(tmp_path)
    files["config.json"].write_text(json.dumps(CONFIG | change))
    with pytest.raises(ModelLoadError, match=said):
        shape_in(files, "x")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("tokenizer.json", "{", "tokenizer.json"),
        ("tokenizer.json", "[]", "JSON object"),
        ("tokenizer.json", '{"model": {"vocab": {"a": 1}}}', "endoftext|startoftranscript"),
        ("tokenizer.json", '{"model": {"vocab": {"a": 4000}}}', "outside"),
        ("tokenizer.json", '{"model": {"vocab": {"a": "x"}}}', "tokenizer.json"),
        ("generation_config.json", '{"suppress_tokens": [4000]}', "suppress_tokens"),
        ("generation_config.json", '{"alignment_heads": [[1]]}', "tokens cannot be used"),
    ],
)
def test_damaged_tokens_are_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    files = write(tmp_path)
    files[name].write_text(text)
    with pytest.raises(ModelLoadError, match=said):
        tokens_in(files, 400, "x")
