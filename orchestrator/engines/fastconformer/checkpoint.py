"""Read a ``.nemo`` file into this package's network, without NeMo."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from orchestrator.engines import nemo_archive
from orchestrator.engines.checks import reason_of
from orchestrator.engines.fastconformer import artifact
from orchestrator.engines.fastconformer.artifact import Description
from orchestrator.engines.fastconformer.config import from_nemo
from orchestrator.engines.fastconformer.network import FastConformer
from orchestrator.engines.fastconformer.tokens import Tokens, punctuation
from orchestrator.engines.fastconformer.weights import converted, ctc_head
from orchestrator.errors import ModelLoadError


def read(path: Path, *, sha256: str = "") -> tuple[Description, dict[str, Tensor]]:
    """What the checkpoint ``path`` is, and its weights in float32, as `artifact.save` takes them.

    Args:
        path: a ``.nemo`` file.
        sha256: its digest, for the record.

    Raises:
        UnsupportedModelError: the checkpoint needs what this package does not compute.
        ModelLoadError: it is corrupt.
    """
    archive = nemo_archive.read(path)
    with tempfile.TemporaryDirectory(prefix="spark-speech-nemo-") as folder:
        unpacked = Path(folder)
        nemo_archive.unpack(path, unpacked, weights=archive.compressed)
        config = _config(path, unpacked)
        tokens = _tokens(path, config, unpacked)
        weights = _weights(path, unpacked, inside=not archive.compressed)
    try:
        model = from_nemo(config, len(tokens.pieces), ctc=archive.decoder == "ctc")
        found = converted(weights, model)
        ctc = None
        if archive.decoder.startswith("hybrid"):
            ctc = from_nemo(config, len(tokens.pieces), ctc=True).head
            found |= {f"ctc_{name}": value for name, value in ctc_head(weights).items()}
    except ModelLoadError as error:
        error.path = error.path or str(path)
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        raise _unfit(path, error) from error
    return Description(model, tokens, archive.languages, ctc, source_sha256=sha256), found


def load(path: Path, device: torch.device, *, prefer_ctc: bool) -> tuple[FastConformer, Description]:
    """The network of the checkpoint ``path``, on ``device`` and ready for inference, and what it is.

    Args:
        path: a ``.nemo`` file.
        device: where to compute.
        prefer_ctc: take the CTC head of a hybrid instead of its transducer.

    Raises:
        UnsupportedModelError: the checkpoint needs what this package does not compute.
        ModelLoadError: it is corrupt, or the device has no room.
    """
    description, weights = read(path)
    config = description.chosen(prefer_ctc=prefer_ctc)
    wanted = artifact.chosen_weights(weights, ctc=config.head.kind == "ctc")
    try:
        network = FastConformer.of(config, {name: weights[stored] for name, stored in wanted.items()})
        return network.to(device), description
    except torch.OutOfMemoryError as error:
        raise ModelLoadError(
            f"{path} does not fit into the memory of {device}.",
            fix="free memory on the device, or choose a smaller model.",
            path=path,
        ) from error
    except (RuntimeError, ValueError, TypeError) as error:
        raise _unfit(path, error) from error


def _unfit(path: Path, error: Exception) -> ModelLoadError:
    return ModelLoadError(
        f"the weights in {path} do not fit its configuration: {reason_of(error)}",
        fix="fetch the file again",
        path=path,
    )


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
