"""A Whisper checkpoint as transformers saves it: its shape, and what is wrong with a folder that is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import ModelLoadError

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_FIX: Final = (
    "name a folder as transformers saves Whisper: config.json, generation_config.json, tokenizer.json (or "
    "vocab.json) and model.safetensors."
)
_LARGEST: Final = 1_000_000
"""No dimension of a real checkpoint is larger; a file that says so is damaged."""


@dataclass(frozen=True, slots=True)
class WhisperShape:
    """The dimensions of a Whisper network; ``positions`` are encoder frames of 20 ms and decoder tokens."""

    mels: int
    width: int
    encoder_layers: int
    encoder_heads: int
    encoder_inner: int
    encoder_positions: int
    decoder_layers: int
    decoder_heads: int
    decoder_inner: int
    decoder_positions: int
    vocabulary: int

    @property
    def frames(self) -> int:
        """Feature frames (10 ms) of one window: the encoder halves them."""
        return 2 * self.encoder_positions

    @property
    def head_width(self) -> int:
        """Numbers of one head's key or value."""
        return self.width // self.decoder_heads


FIELDS: Final = {
    "mels": "num_mel_bins",
    "width": "d_model",
    "encoder_layers": "encoder_layers",
    "encoder_heads": "encoder_attention_heads",
    "encoder_inner": "encoder_ffn_dim",
    "encoder_positions": "max_source_positions",
    "decoder_layers": "decoder_layers",
    "decoder_heads": "decoder_attention_heads",
    "decoder_inner": "decoder_ffn_dim",
    "decoder_positions": "max_target_positions",
    "vocabulary": "vocab_size",
}


def shape_in(files: Mapping[str, Path], model: str) -> WhisperShape:
    """The shape that a checkpoint's config.json tells.

    Args:
        files: the checkpoint's, by name.
        model: the engine, for errors.

    Raises:
        ModelLoadError: it is not a Whisper checkpoint of transformers' kind.
    """
    if CONFIG not in files or not {WEIGHTS, INDEX} & files.keys():
        raise ModelLoadError(
            f"This is no Whisper checkpoint of transformers' kind{_looks_like(files)}.", fix=_FIX, model=model
        )
    config = read_json(files[CONFIG], model)
    try:
        if config["model_type"] != "whisper":
            raise ValueError(f"it is a {config['model_type']!r} model")
        if config.get("activation_function", "gelu") != "gelu" or config.get("scale_embedding", False):
            raise ValueError("its activation or embedding is not Whisper's own")
        numbers = {field: config[key] for field, key in FIELDS.items()}
        for field, number in numbers.items():
            if not isinstance(number, int) or isinstance(number, bool) or not 0 < number <= _LARGEST:
                raise ValueError(f"{FIELDS[field]} is {number!r}")
        if numbers["width"] % numbers["encoder_heads"] or numbers["width"] % numbers["decoder_heads"]:
            raise ValueError("d_model is not a multiple of the attention heads")
    except KeyError as error:
        raise _not_usable(files[CONFIG], f"it lacks {error}", model) from error
    except ValueError as error:
        raise _not_usable(files[CONFIG], str(error), model) from error
    return WhisperShape(**numbers)


def read_json(path: Path, model: str) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        ModelLoadError: it cannot be read, or is no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"{path} cannot be read: {error}", fix="copy the checkpoint again.", model=model, path=path
        ) from error
    if not isinstance(data, dict):
        raise ModelLoadError(f"{path} is no JSON object.", fix=_FIX, model=model, path=path)
    return data


def _looks_like(files: Mapping[str, Path]) -> str:
    """What the files are instead, as the end of a sentence."""
    if not files:
        return ": there are no files"
    if "model.bin" in files:
        return "; it looks like one for CTranslate2 (engine whisper_ct2)"
    if any(name.startswith("ggml") or name.endswith(".gguf") for name in files):
        return "; it looks like one for whisper.cpp (engine whisper_cpp)"
    if any(name.endswith((".plan", ".engine")) for name in files):
        return ": these are TensorRT plans alone, which need the checkpoint that they were built from"
    if "pytorch_model.bin" in files:
        return ": its weights are pytorch_model.bin; save them once with safe_serialization"
    if any(name.endswith(".pt") for name in files):
        return "; it looks like OpenAI's own format: convert it with transformers' convert_openai_to_hf"
    return f": it lacks {CONFIG if CONFIG not in files else WEIGHTS}"


def _not_usable(path: Path, reason: str, model: str) -> ModelLoadError:
    return ModelLoadError(f"{CONFIG} is not Whisper's: {reason}.", fix=_FIX, model=model, path=path)
