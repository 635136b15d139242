"""How `orchestrator.engines.parakeet` is set up: its options, its device, and which runtime computes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from orchestrator.engines.acoustic import AcousticModel
from orchestrator.engines.fastconformer import loading
from orchestrator.engines.fastconformer.model import FastModel
from orchestrator.errors import (
    ConfigurationError,
    MissingDependencyError,
    UnsupportedModelError,
)

_LOG: Final = logging.getLogger(__name__)

_CPU_PADDED_S: Final = 240.0
_GPU_PADDED_S: Final = 2600.0
"""Of the 0.6B shape this makes 2**31 numbers after the first convolution, about where kernels that count in
32 bits end; more in one step gains nothing on any GPU so far."""
_PADDED_SECOND_BYTES: Final = 8_000_000
"""What a step of the 0.6B shape needs for a second of padded audio, most of it in the subsampling."""


class ParakeetOptions(BaseModel):
    """What `EngineSource.options` may hold for this engine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    languages: tuple[str, ...] = ()
    """BCP-47 primary tags of the weights; a checkpoint that names its own comes first, ``("en",)`` last."""
    runtime: Literal["auto", "native", "nemo"] = "auto"
    """``auto``: native, and NeMo only for checkpoints that the native runtime cannot compute."""
    head: Literal["transducer", "ctc"] = "transducer"
    """Which head of a hybrid decodes."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the native runtime's matrix products; ``auto``: float32 on a CPU, elsewhere what the build chose, or
    bfloat16 for a ``.nemo`` file. NeMo computes in float32."""
    cuda_graphs: bool = True
    """Replay captured graphs where the device is CUDA."""
    max_batch: int = Field(default=128, ge=1)
    """The most recordings in one step."""
    max_padded_s: float | None = Field(default=None, gt=0)
    """The most audio in one step, in seconds once padded; None: 240 on a CPU, by the memory of a GPU."""
    warm_up: bool = True
    """On CUDA: recognise a little noise while loading, so that the first request does not pay for it."""


def model_in(folder: Path, device: torch.device, options: ParakeetOptions) -> AcousticModel:
    """What is in the folder, in the runtime that the options ask for; NeMo is imported only for itself.

    Raises:
        ModelLoadError: a file is missing, corrupt, or not a checkpoint that this engine runs.
        MissingDependencyError: a checkpoint needs a library which is not installed.
        ConfigurationError: NeMo is asked to run what only the native runtime reads.
    """
    prefer_ctc = options.head == "ctc"
    try:
        if options.runtime != "nemo":
            try:
                return FastModel(
                    folder,
                    device,
                    prefer_ctc=prefer_ctc,
                    precision=options.precision,
                    cuda_graphs=options.cuda_graphs,
                )
            except UnsupportedModelError as error:
                if options.runtime == "native":
                    raise
                _LOG.info("%s: using NeMo", error.message)
        path = folder / loading.CHECKPOINT_NAME
        if loading.is_lean(folder) and not path.exists():
            raise ConfigurationError(
                f"NeMo cannot run what is in {folder}: the release was built for the native runtime.",
                fix="set the engine's option runtime to auto, or load the folder of a .nemo file.",
                model="parakeet",
            )
        from orchestrator.engines import nemo_archive

        checkpoint = nemo_archive.read(path)  # before NeMo's import: wrong files are refused at once
        from orchestrator.engines.nemo_model import NemoModel

        return NemoModel(path, checkpoint, device, prefer_ctc=prefer_ctc, cuda_graphs=options.cuda_graphs)
    except ImportError as error:
        raise MissingDependencyError(
            f"The checkpoint in {folder} needs a library that is not installed: {error}",
            fix="run: pip install 'spark-speech[serve]', or serve a release, which needs only torch.",
            model="parakeet",
        ) from error


def default_padded_s(device: torch.device) -> float:
    """As much audio, in seconds, as a step can hold in a share of the device's memory."""
    if device.type != "cuda":
        return _CPU_PADDED_S
    properties = torch.cuda.get_device_properties(device)
    # Memory that the GPU shares with the processor is needed by everything else, too.
    share = properties.total_memory // (8 if properties.is_integrated else 4)
    return float(min(max(share // _PADDED_SECOND_BYTES, _CPU_PADDED_S), _GPU_PADDED_S))
