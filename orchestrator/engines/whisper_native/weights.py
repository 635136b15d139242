"""A checkpoint's weights, from safetensors into the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from orchestrator.engines.checks import reason_of
from orchestrator.engines.whisper_native.checkpoint import CONFIG, INDEX, WEIGHTS, WhisperShape, read_json
from orchestrator.engines.whisper_native.network import Whisper
from orchestrator.errors import ModelLoadError

_PREFIX: Final = "model."
_TIED: Final = "proj_out.weight"
"""The same numbers as the decoder's embedding."""


def network_in(
    files: Mapping[str, Path], shape: WhisperShape, device: torch.device, dtype: torch.dtype, model: str
) -> Whisper:
    """The network of ``shape`` with the weights in ``files`` (by name), ready to compute.

    Raises:
        ModelLoadError: the weights are missing, damaged, or of another shape.
    """
    with torch.device("meta"):
        network = Whisper(shape)
    found: dict[str, Tensor] = {}
    for path in _paths(files, model):
        try:
            found |= load_file(path, device=str(device))
        except (SafetensorError, OSError, RuntimeError) as error:
            raise _damaged(path, reason_of(error), model) from error
    named = {name.removeprefix(_PREFIX): value.to(dtype) for name, value in found.items() if name != _TIED}
    if reason := _unlike(named, network.state_dict()):
        raise _damaged(files.get(WEIGHTS, files[CONFIG]), reason, model)
    network.load_state_dict(named, assign=True)
    return network.eval().requires_grad_(False)


def _paths(files: Mapping[str, Path], model: str) -> list[Path]:
    if WEIGHTS in files:
        return [files[WEIGHTS]]
    parts = read_json(files[INDEX], model).get("weight_map")
    if not isinstance(parts, dict) or not parts:
        raise _damaged(files[INDEX], "it names no files", model)
    if missing := sorted({str(name) for name in parts.values()} - files.keys()):
        raise _damaged(files[INDEX], f"{missing[0]} is not there", model)
    return [files[name] for name in sorted(set(parts.values()))]


def _unlike(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the weights, None where nothing is."""
    if missing := sorted(wanted.keys() - found.keys()):
        return f"{len(missing)} weights are missing, {missing[0]} among them"
    if more := sorted(found.keys() - wanted.keys()):
        return f"{more[0]} is no weight of Whisper's"
    for name, value in wanted.items():
        if found[name].shape != value.shape:
            got, want = (json.dumps(list(one.shape)) for one in (found[name], value))
            return f"{name} has the shape {got}, and config.json makes it {want}"
    return None


def _damaged(path: Path, reason: str, model: str) -> ModelLoadError:
    return ModelLoadError(
        f"the weights in {path} cannot be used: {reason}",
        fix="copy the checkpoint again.",
        model=model,
        path=path,
    )
