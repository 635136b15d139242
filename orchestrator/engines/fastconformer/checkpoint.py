"""Read a ``.nemo`` file into this package's network, without NeMo."""

from __future__ import annotations

import pickle
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sentencepiece
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from orchestrator.engines import nemo_archive
from orchestrator.engines.fastconformer.config import from_nemo
from orchestrator.engines.fastconformer.heads import TransducerHead
from orchestrator.engines.fastconformer.network import FastConformer
from orchestrator.engines.fastconformer.weights import converted
from orchestrator.errors import ModelLoadError

_NOT_TEXT: Final = re.compile(r"\[.*\]|<.*>|##.*|\u2581.*", re.DOTALL)
"""Pieces that NeMo does not take punctuation from: names in brackets, and starts of words."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The text of a checkpoint's tokens.

    Attributes:
        pieces: SentencePiece pieces by id, without the blank.
        marks: punctuation characters of the vocabulary, sorted.
        unknown: ids of unknown pieces.
        control: ids that add nothing to the text.
    """

    pieces: tuple[str, ...]
    marks: tuple[str, ...]
    unknown: tuple[int, ...]
    control: tuple[int, ...]


def load(path: Path, device: torch.device, *, prefer_ctc: bool) -> tuple[FastConformer, Tokens]:
    """The network of the checkpoint ``path``, on ``device`` and ready for inference, and its tokens.

    Args:
        path: a ``.nemo`` file.
        device: where to compute.
        prefer_ctc: take the CTC head of a hybrid instead of its transducer.

    Raises:
        UnsupportedModelError: the checkpoint needs what this package does not compute.
        ModelLoadError: it is corrupt, or the device has no room.
    """
    archive = nemo_archive.read(path)
    with tempfile.TemporaryDirectory(prefix="spark-speech-nemo-") as folder:
        unpacked = Path(folder)
        nemo_archive.unpack(path, unpacked, weights=archive.compressed)
        config = _config(path, unpacked)
        tokens = _tokens(path, config, unpacked)
        weights = _weights(path, unpacked, inside=not archive.compressed)
    ctc = archive.decoder == "ctc" or (prefer_ctc and archive.decoder.startswith("hybrid"))
    try:
        model = from_nemo(config, len(tokens.pieces), ctc=ctc)
        with torch.device("meta"):
            network = FastConformer(model)
        network.load_state_dict(converted(weights, model), strict=True, assign=True)
        if isinstance(network.head, TransducerHead):  # not a weight, so not in the file
            network.head.durations = torch.tensor(model.head.durations, dtype=torch.long)
        network = network.to(device)
    except ModelLoadError as error:
        error.path = error.path or str(path)
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelLoadError(
            f"the weights in {path} do not fit its configuration: {reason[:300]}",
            fix="fetch the file again",
            path=path,
        ) from error
    return network.eval().requires_grad_(False), tokens


def _config(source: Path, unpacked: Path) -> dict[str, Any]:
    try:
        config = OmegaConf.load(unpacked / nemo_archive.CONFIG_NAME)
        plain = OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise ModelLoadError(
            f"{nemo_archive.CONFIG_NAME} in {source} cannot be resolved: {error}",
            fix="fetch the file again",
            path=source,
        ) from error
    whole = {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}
    inner = whole.get("model")
    return inner if isinstance(inner, dict) else whole


def _tokens(source: Path, config: Mapping[str, Any], unpacked: Path) -> Tokens:
    pieces: list[str] = []
    unknown: list[int] = []
    control: list[int] = []
    for name in _tokenizer_files(config.get("tokenizer") or {}):
        try:
            processor = sentencepiece.SentencePieceProcessor(model_file=str(unpacked / name))
        except (OSError, RuntimeError) as error:
            raise ModelLoadError(
                f"the tokenizer {name} in {source} cannot be read", fix="fetch the file again", path=source
            ) from error
        for token in range(processor.get_piece_size()):
            if processor.is_unknown(token):
                unknown.append(len(pieces))
            elif processor.is_control(token):
                control.append(len(pieces))
            pieces.append(processor.id_to_piece(token))
    if not pieces:
        raise ModelLoadError(
            f"{source} has no SentencePiece tokenizer", fix="use a checkpoint with one", path=source
        )
    return Tokens(tuple(pieces), punctuation(pieces), tuple(unknown), tuple(control))


def _tokenizer_files(tokenizer: Mapping[str, Any]) -> list[str]:
    """SentencePiece models of a tokenizer, or of each language's in an aggregate one, in order of ids."""
    parts = tokenizer.get("langs", {"": tokenizer}).values()
    files = (str(part.get("model_path") or "") for part in parts)
    return [file.removeprefix("nemo:") for file in files if file.endswith(".model")]


def punctuation(pieces: Iterable[str]) -> tuple[str, ...]:
    """Punctuation characters of a vocabulary, sorted; the same set as NeMo takes."""
    return tuple(
        sorted(
            {
                character
                for piece in pieces
                if not _NOT_TEXT.fullmatch(piece)
                for character in piece
                if unicodedata.category(character).startswith("P")
            }
        )
    )


def _weights(source: Path, unpacked: Path, *, inside: bool) -> dict[str, Tensor]:
    try:
        if not inside:
            weights = torch.load(unpacked / nemo_archive.WEIGHTS_NAME, map_location="cpu", weights_only=True)
        else:
            archive, file = nemo_archive.open_weights(source)
            with archive:
                weights = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ModelLoadError(
            f"the weights in {source} cannot be read", fix="fetch the file again", path=source
        ) from error
    # A checkpoint may keep its weights in 16 bits.
    return {name: value.float() for name, value in weights.items() if value.is_floating_point()}
