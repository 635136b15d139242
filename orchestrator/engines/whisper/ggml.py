"""whisper.cpp's files, read to the end before the library does: it stops the whole process at a bad one.

The format is that which ``models/convert-pt-to-ggml.py`` of whisper.cpp documents and writes, little endian:
a magic number, eleven numbers of the model's shape, the mel filters, the tokens' bytes, and the tensors, each
with its dimensions (the innermost first), its name, its type and its values.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from orchestrator.engines.whisper.languages import codes_of, tags_of
from orchestrator.errors import ModelLoadError

ARTIFACT: Final = "ggml-model.bin"
MAGIC: Final = 0x67676D6C
_OTHER: Final = {
    b"GGUF": "a GGUF file, which whisper.cpp does not read",
    b"PK\x03\x04": "a PyTorch checkpoint",
}
_BLOCKS: Final = {
    # Type: values to a block, bytes of it (ggml.h and ggml-common.h).
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
}
_MOST_DIMENSIONS: Final = 4
_LONGEST_NAME: Final = 256
_LONGEST_TOKEN: Final = 4096
_MOST: Final = 1 << 24
"""No dimension, and no count of tokens, is larger."""
_GET: Final = "take the file again from where it came from, or make it with whisper.cpp's converter."
_ENGINE: Final = "whisper_cpp"


class Shape(NamedTuple):
    """The model's eleven numbers, in the file's order."""

    vocabulary: int
    audio_positions: int
    audio_width: int
    audio_heads: int
    audio_layers: int
    text_positions: int
    text_width: int
    text_heads: int
    text_layers: int
    mels: int
    file_type: int


@dataclass(frozen=True, slots=True)
class GgmlFile:
    """What a file holds: the model's shape, and the languages that it knows, as Whisper's codes."""

    shape: Shape
    codes: tuple[str, ...]


def inspect(files: Mapping[str, Path]) -> tuple[str, ...]:
    """The languages (BCP-47 primary tags) that the weights know.

    Raises:
        ModelLoadError: the file is missing or damaged, or holds something else.
    """
    if ARTIFACT not in files:
        raise ModelLoadError(f"There is no {ARTIFACT}.", fix=_GET, model=_ENGINE)
    return tags_of(read(files[ARTIFACT]).codes)


def read(path: Path) -> GgmlFile:
    """Go through the whole of a file, its tensors' values left out; raises as `inspect` does."""
    try:
        with path.open("rb") as file:
            return _Reader(file, path, os.fstat(file.fileno()).st_size).read()
    except OSError as error:
        raise ModelLoadError(
            f"The model file cannot be read: {error.strerror}", fix=_GET, model=_ENGINE, path=path
        ) from error


class _Reader:
    """One pass through a file of ``size`` bytes."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self._file = file
        self._path = path
        self._size = size

    def read(self) -> GgmlFile:
        magic = self._file.read(4)
        if magic != struct.pack("<I", MAGIC):
            what = _OTHER.get(
                magic, "damaged, or of another program (a CTranslate2 model is for whisper_ct2)"
            )
            raise self._wrong(f"is no model of whisper.cpp: it is {what}")
        shape = Shape(*self._numbers(len(Shape._fields)))
        codes = codes_of(shape.vocabulary)
        if not codes or min(shape[:-1]) < 1 or max(shape[:-1]) > _MOST:
            raise self._wrong("has a shape that no Whisper has")
        if shape.audio_width % shape.audio_heads or shape.text_width % shape.text_heads:
            raise self._wrong("has a width that its heads do not share evenly")
        mels, bins = self._numbers(2)
        if mels != shape.mels or not 0 < bins <= _MOST:
            raise self._wrong("has mel filters of another size than its model")
        self._skip(mels * bins * 4)
        (tokens,) = self._numbers(1)
        if not 0 < tokens <= shape.vocabulary:
            raise self._wrong(f"has {tokens} tokens for a vocabulary of {shape.vocabulary}")
        for _ in range(tokens):
            (length,) = self._numbers(1)
            if not 0 <= length <= _LONGEST_TOKEN:
                raise self._wrong("has a token of an impossible length")
            self._skip(length)
        self._check_tensors(shape)
        return GgmlFile(shape, codes)

    def _check_tensors(self, shape: Shape) -> None:
        """Each tensor is whole, and all that the layers need are there, and no more."""
        found: dict[str, tuple[int, ...]] = {}
        while self._file.tell() < self._size:
            count, length, kind = self._numbers(3)
            if not 0 < count <= _MOST_DIMENSIONS or not 0 < length <= _LONGEST_NAME or kind not in _BLOCKS:
                raise self._wrong("has a damaged tensor")
            dimensions = self._numbers(count)
            name = self._take(length).decode("utf-8", errors="replace")
            values, size = _BLOCKS[kind]
            if min(dimensions) < 1 or max(dimensions) > _MOST or dimensions[0] % values:
                raise self._wrong(f"has a tensor {name!r} of an impossible shape")
            self._skip(prod(dimensions) // values * size)
            found[name] = tuple(dimensions)
        for name, wanted in _needed(shape).items():
            if prod(found.get(name, (0,))) != prod(wanted):
                raise self._wrong(f"lacks the tensor {name!r}, or has it in another shape")
        if extra := found.keys() - _needed(shape).keys():
            raise self._wrong(f"has a tensor {min(extra)!r} that Whisper does not have")

    def _numbers(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}i", self._take(4 * count))

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise self._cut_off()
        return data

    def _skip(self, count: int) -> None:
        if self._file.tell() + count > self._size:
            raise self._cut_off()
        self._file.seek(count, os.SEEK_CUR)

    def _cut_off(self) -> ModelLoadError:
        return self._wrong("is cut off")

    def _wrong(self, what: str) -> ModelLoadError:
        return ModelLoadError(f"{self._path.name} {what}.", fix=_GET, model=_ENGINE, path=self._path)


def _needed(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The names and dimensions of all tensors of a model of this shape."""
    audio, text = shape.audio_width, shape.text_width
    tensors: dict[str, tuple[int, ...]] = {
        "encoder.positional_embedding": (audio, shape.audio_positions),
        "encoder.conv1.weight": (3, shape.mels, audio),
        "encoder.conv1.bias": (1, audio),
        "encoder.conv2.weight": (3, audio, audio),
        "encoder.conv2.bias": (1, audio),
        "encoder.ln_post.weight": (audio,),
        "encoder.ln_post.bias": (audio,),
        "decoder.positional_embedding": (text, shape.text_positions),
        "decoder.token_embedding.weight": (text, shape.vocabulary),
        "decoder.ln.weight": (text,),
        "decoder.ln.bias": (text,),
    }
    for layer in range(shape.audio_layers):
        tensors |= _block(f"encoder.blocks.{layer}", audio, ("attn",))
    for layer in range(shape.text_layers):
        tensors |= _block(f"decoder.blocks.{layer}", text, ("attn", "cross_attn"))
    return tensors


def _block(prefix: str, width: int, attentions: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {
        f"{prefix}.mlp_ln.weight": (width,),
        f"{prefix}.mlp_ln.bias": (width,),
        f"{prefix}.mlp.0.weight": (width, 4 * width),
        f"{prefix}.mlp.0.bias": (4 * width,),
        f"{prefix}.mlp.2.weight": (4 * width, width),
        f"{prefix}.mlp.2.bias": (width,),
    }
    for attention in attentions:
        tensors |= {f"{prefix}.{attention}_ln.{part}": (width,) for part in ("weight", "bias")}
        for projection in ("query", "key", "value", "out"):
            tensors[f"{prefix}.{attention}.{projection}.weight"] = (width, width)
            if projection != "key":  # Whisper's keys have no bias
                tensors[f"{prefix}.{attention}.{projection}.bias"] = (width,)
    return tensors
