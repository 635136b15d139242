"""A recogniser's network from the folder of its files: the lean form, or a ``.nemo`` checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import torch

from orchestrator.engines.fastconformer import artifact
from orchestrator.engines.fastconformer.artifact import Description, Precision
from orchestrator.engines.fastconformer.network import FastConformer

CHECKPOINT_NAME: Final = "model.nemo"


def is_lean(folder: Path) -> bool:
    """Whether the folder holds the lean form; a checkpoint may lie beside it."""
    return (folder / artifact.DESCRIPTION_NAME).exists() or (folder / artifact.WEIGHTS_NAME).exists()


def load(
    folder: Path, device: torch.device, *, prefer_ctc: bool = False
) -> tuple[FastConformer, Description]:
    """The network, on ``device`` and ready for inference, and what it is.

    Args:
        folder: holds ``model.safetensors`` and ``model.json``, or ``model.nemo``.
        device: where to compute.
        prefer_ctc: take the CTC head of a hybrid instead of its transducer.

    Raises:
        UnsupportedModelError: the checkpoint needs what this package does not compute.
        ModelLoadError: a file is missing or damaged, or the device has no room.
    """
    if is_lean(folder):
        return artifact.load(folder, device, prefer_ctc=prefer_ctc)
    # Its tokenizer and configuration need libraries that the lean form does without.
    from orchestrator.engines.fastconformer import checkpoint

    return checkpoint.load(folder / CHECKPOINT_NAME, device, prefer_ctc=prefer_ctc)


def precision_of(
    asked: Literal["auto"] | Precision, folder: Path, device: torch.device, description: Description
) -> Precision:
    """What to compute in; ``auto`` is float32 on a CPU, elsewhere the lean form's, or bfloat16.

    Args:
        asked: by the engine's options.
        folder: what was loaded.
        device: where to compute.
        description: what `load` said of it.
    """
    if asked != "auto":
        return asked
    if device.type == "cpu":
        return "float32"
    return description.precision if is_lean(folder) else "bfloat16"
