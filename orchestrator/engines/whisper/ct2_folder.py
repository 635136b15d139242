"""What a folder of CTranslate2's Whisper holds, told from its files without the library.

CTranslate2's converter writes ``model.bin`` (a version, the name of the architecture, the weights),
``config.json`` and the vocabulary; ``tokenizer.json``, and ``preprocessor_config.json`` where the spectrogram
is not that of the first models, are copied from the weights that were converted.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator.engines.whisper.languages import codes_of, tags_of
from orchestrator.errors import ModelLoadError

MODEL: Final = "model.bin"
TOKENIZER: Final = "tokenizer.json"
_CONFIG: Final = "config.json"
_VOCABULARIES: Final = ("vocabulary.json", "vocabulary.txt")
_ARCHITECTURE: Final = "WhisperSpec"
_LONGEST_NAME: Final = 200
_ENGINE: Final = "whisper_ct2"
CONVERT: Final = (
    "convert Whisper's weights with: ct2-transformers-converter --model FOLDER --output_dir NEW_FOLDER "
    "--copy_files tokenizer.json preprocessor_config.json --quantization float16"
)


def inspect(files: Mapping[str, Path]) -> tuple[str, ...]:
    """The languages (BCP-47 primary tags) that the weights know.

    Raises:
        ModelLoadError: a file is missing or damaged, or these are other weights.
    """
    return tags_of(codes_in(files))


def files_in(folder: Path) -> dict[str, Path]:
    """The folder's files by name; none where it cannot be read."""
    try:
        return {path.name: path for path in folder.iterdir() if path.is_file()}
    except OSError:
        return {}


def codes_in(files: Mapping[str, Path]) -> tuple[str, ...]:
    """The languages as Whisper's codes; raises as `inspect` does."""
    if MODEL not in files:
        raise ModelLoadError(_without(files), fix=CONVERT, model=_ENGINE)
    _check_architecture(files[MODEL])
    for name in (_CONFIG, TOKENIZER):
        if name not in files:
            raise ModelLoadError(
                f"The folder of CTranslate2's Whisper lacks {name}.",
                fix="copy it there from the weights that were converted." if name == TOKENIZER else CONVERT,
                model=_ENGINE,
            )
    config, tokenizer = _read_json(files[_CONFIG]), _read_json(files[TOKENIZER])
    size = _vocabulary(files)
    codes = codes_of(size)
    if not codes:
        raise ModelLoadError(
            f"The vocabulary has {size} tokens, as no Whisper has.", fix=CONVERT, model=_ENGINE
        )
    if len(codes) > 1 and isinstance(config, dict) and config.get("lang_ids") == []:
        raise ModelLoadError(
            f"{_CONFIG} names no tokens of languages (lang_ids).", fix=CONVERT, model=_ENGINE
        )
    _check_tokenizer(tokenizer, codes)
    return codes


def _check_tokenizer(tokenizer: Any, codes: Sequence[str]) -> None:
    """The tokens that a prompt is made of are there."""
    try:
        there = {str(token["content"]) for token in tokenizer["added_tokens"]}
    except (KeyError, TypeError):
        there = set()
    wanted = ["<|transcribe|>", "<|notimestamps|>"]
    wanted += [f"<|{code}|>" for code in codes] if len(codes) > 1 else []
    if missing := [token for token in wanted if token not in there]:
        raise ModelLoadError(
            f"{TOKENIZER} is not that of these weights: it lacks {missing[0]}.",
            fix="copy it there from the weights that were converted.",
            model=_ENGINE,
        )


def _without(files: Mapping[str, Path]) -> str:
    """What the files are instead, where that can be told."""
    names = set(files)
    if any(name.endswith((".safetensors", ".pt")) or name == "pytorch_model.bin" for name in names):
        return "These are weights for PyTorch, not CTranslate2's."
    if any(name.startswith("ggml-") for name in names):
        return "These are whisper.cpp's weights, not CTranslate2's."
    return f"The folder of CTranslate2's Whisper lacks {MODEL}."


def _check_architecture(path: Path) -> None:
    """Read the head of ``model.bin``: a version, the length of a name, the name, which ends with a zero."""
    try:
        with path.open("rb") as file:
            head = file.read(6 + _LONGEST_NAME)
    except OSError as error:
        raise ModelLoadError(f"{path.name} cannot be read: {error}", model=_ENGINE, path=path) from error
    if head[:4] == b"lmgg":
        raise ModelLoadError(
            f"{path.name} is whisper.cpp's: not a model of CTranslate2.",
            fix="build whisper_cpp from it, or name a folder of CTranslate2.",
            model=_ENGINE,
            path=path,
        )
    version, length = struct.unpack("<IH", head[:6]) if len(head) >= 6 else (0, 0)
    name = head[6 : 6 + length].rstrip(b"\0").decode("utf-8", errors="replace")
    if not 0 < length <= _LONGEST_NAME or version > 100:
        raise ModelLoadError(
            f"{path.name} is damaged, or not a model of CTranslate2.", fix=CONVERT, model=_ENGINE, path=path
        )
    if name != _ARCHITECTURE:
        raise ModelLoadError(
            f"{path.name} is a model of CTranslate2, but {name!r} is not Whisper.",
            fix=CONVERT,
            model=_ENGINE,
            path=path,
        )


def _vocabulary(files: Mapping[str, Path]) -> int:
    """How many tokens the vocabulary has."""
    for name in _VOCABULARIES:
        path = files.get(name)
        if path is None:
            continue
        if name.endswith(".json"):
            return len(_read_json(path))
        try:
            return path.read_bytes().count(b"\n")
        except OSError as error:
            raise ModelLoadError(f"{name} cannot be read: {error}", model=_ENGINE, path=path) from error
    raise ModelLoadError(
        f"The folder of CTranslate2's Whisper lacks {_VOCABULARIES[0]}.", fix=CONVERT, model=_ENGINE
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"{path.name} is damaged: {error}",
            fix="copy it again from where the weights came from.",
            model=_ENGINE,
            path=path,
        ) from error
