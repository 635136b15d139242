"""The lean form of a recogniser: what serving needs and nothing else.

``model.safetensors`` holds the weights in the type that they are computed in, under this package's names,
mapped into memory when they are read; the other head of a hybrid lies beside them under ``ctc_head.``.
``model.json`` is a `Description`. The weights carry the digest of the description they belong to, so files of
two models do not mix.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from orchestrator.engines.checks import reason_of
from orchestrator.engines.fastconformer.config import HeadConfig, ModelConfig
from orchestrator.engines.fastconformer.network import FastConformer
from orchestrator.engines.fastconformer.tokens import Tokens
from orchestrator.errors import ArtifactError, ModelLoadError

WEIGHTS_NAME: Final = "model.safetensors"
DESCRIPTION_NAME: Final = "model.json"
FILES: Final = (WEIGHTS_NAME, DESCRIPTION_NAME)
FORMAT_VERSION: Final = 1
Precision = Literal["float32", "bfloat16"]

HEAD: Final = "head."
CTC_HEAD: Final = "ctc_head."
_FEATURES: Final = "features."
_DIGEST_KEY: Final = "description_sha256"
"""The only entry of the weights' metadata: the library does not order several, and equal models shall be
equal files."""
_MAX_DESCRIPTION_BYTES: Final = 64 * 1024**2
_MODE: Final = 0o644
_FIX: Final = "build the release again: spark-speech build"


@dataclass(frozen=True, slots=True)
class Description:
    """What ``model.json`` says.

    Attributes:
        config: the shape; its head is the transducer of a hybrid.
        tokens: the text of the tokens.
        languages: BCP-47 primary tags, empty where the checkpoint does not say.
        ctc: the second head of a hybrid.
        precision: of the weights of encoder and heads; those of the features are float32.
        source_sha256: of the checkpoint that this was made from, empty where there was none.
    """

    config: ModelConfig
    tokens: Tokens
    languages: tuple[str, ...] = ()
    ctc: HeadConfig | None = None
    precision: Precision = "float32"
    source_sha256: str = ""
    version: Literal[1] = FORMAT_VERSION
    format: Literal["spark-speech fastconformer"] = "spark-speech fastconformer"

    def chosen(self, *, prefer_ctc: bool) -> ModelConfig:
        """The shape with the head that decodes."""
        return replace(self.config, head=self.ctc) if prefer_ctc and self.ctc is not None else self.config


_DESCRIPTION: Final = TypeAdapter(Description)


def cast(weights: Mapping[str, Tensor], precision: Precision) -> dict[str, Tensor]:
    """The weights in ``precision``, but for those of the features."""
    dtype = _dtype(precision)
    return {name: value if name.startswith(_FEATURES) else value.to(dtype) for name, value in weights.items()}


def chosen_weights(names: Mapping[str, object], *, ctc: bool) -> dict[str, str]:
    """Which of a model's weights its network needs: name in the network -> name among ``names``."""
    if not (ctc and any(name.startswith(CTC_HEAD) for name in names)):
        return {name: name for name in names if not name.startswith(CTC_HEAD)}
    return {name.removeprefix("ctc_"): name for name in names if not name.startswith(HEAD)}


def save(folder: Path, description: Description, weights: Mapping[str, Tensor]) -> None:
    """Write both files; equal models give equal bytes. A file that cannot be written whole is not written.

    Args:
        folder: an existing folder.
        description: what the model is; ``weights`` are cast to its precision.
        weights: by the names of `FastConformer.state_dict`, and those of `Description.ctc` under
            ``ctc_head.``.

    Raises:
        ArtifactError: the files cannot be written.
    """
    text = _DESCRIPTION.dump_json(description, indent=1)
    tensors = {name: value.contiguous() for name, value in cast(weights, description.precision).items()}
    metadata = {_DIGEST_KEY: hashlib.sha256(text).hexdigest()}
    _written(folder / WEIGHTS_NAME, lambda path: save_file(tensors, path, metadata))
    _written(folder / DESCRIPTION_NAME, lambda path: path.write_bytes(text))


def describe(folder: Path) -> Description:
    """Read ``model.json``.

    Raises:
        ModelLoadError: it is missing, damaged or of another version.
    """
    return _described(folder)[0]


def load(
    folder: Path, device: torch.device, *, prefer_ctc: bool = False
) -> tuple[FastConformer, Description]:
    """The network in ``folder``, on ``device`` and ready for inference, and what it is.

    Args:
        folder: holds both files.
        device: where to compute; the weights go there straight from the file.
        prefer_ctc: take the CTC head of a hybrid instead of its transducer.

    Raises:
        ModelLoadError: a file is missing, damaged, or not of this model, or the device has no room.
    """
    description, digest = _described(folder)
    path = folder / WEIGHTS_NAME
    config = description.chosen(prefer_ctc=prefer_ctc)
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            if (file.metadata() or {}).get(_DIGEST_KEY) != digest:
                raise ModelLoadError(
                    f"{path} belongs to another {DESCRIPTION_NAME} than the one beside it.",
                    fix=_FIX,
                    path=path,
                )
            names = dict.fromkeys(file.offset_keys())
            wanted = chosen_weights(names, ctc=config.head.kind == "ctc")
            weights = {name: file.get_tensor(stored) for name, stored in wanted.items()}
        _check_types(weights, description.precision)
        return FastConformer.of(config, weights), description
    except FileNotFoundError as error:
        raise ModelLoadError(f"There is no {path}.", fix=_FIX, path=path) from error
    except torch.OutOfMemoryError as error:
        raise ModelLoadError(
            f"{path} does not fit into the memory of {device}.",
            fix="free memory on the device, or choose a smaller model.",
            path=path,
        ) from error
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise ModelLoadError(f"{path} cannot be used: {reason_of(error)}", fix=_FIX, path=path) from error


def _described(folder: Path) -> tuple[Description, str]:
    path = folder / DESCRIPTION_NAME
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_DESCRIPTION_BYTES)
        return _DESCRIPTION.validate_json(text), hashlib.sha256(text).hexdigest()
    except FileNotFoundError as error:
        raise ModelLoadError(f"There is no {path}.", fix=_FIX, path=path) from error
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {reason_of(error)}", fix=_FIX, path=path) from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ModelLoadError(
            f"{path} is damaged or of another version: {where}: {first['msg']}.", fix=_FIX, path=path
        ) from error


def _check_types(weights: Mapping[str, Tensor], precision: Precision) -> None:
    for name, value in weights.items():
        wanted = torch.float32 if name.startswith(_FEATURES) else _dtype(precision)
        if value.dtype != wanted:
            raise ValueError(f"{name} is {value.dtype}, not {wanted}")


def _dtype(precision: Precision) -> torch.dtype:
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _written(path: Path, write: Callable[[Path], object]) -> None:
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.chmod(_MODE)  # not for its owner alone, as temporary files are
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"{path} cannot be written: {reason_of(error)}",
            fix="check the folder's permissions and the free space on its disk",
            path=path,
        ) from error
