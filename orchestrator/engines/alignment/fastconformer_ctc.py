"""The CTC head of a FastConformer recogniser (a Parakeet CTC or hybrid checkpoint) as an emission source."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.acoustic import exact_convolutions, on_device, padded
from orchestrator.engines.alignment.base import Emissions, Reach
from orchestrator.engines.alignment.spelling import Pieces
from orchestrator.engines.base import Samples
from orchestrator.engines.checks import reason_of
from orchestrator.engines.fastconformer import loading
from orchestrator.engines.fastconformer.compute import Compute
from orchestrator.engines.fastconformer.heads import CtcHead
from orchestrator.errors import InferenceError, ModelLoadError

_BATCH: Final = 8
_REACH: Final = Reach(before_ms=80.0, after_ms=80.0)
"""A frame of 80 ms: a token's frame lies anywhere in the sound of the piece."""


class FastConformerCtc:
    """An `EmissionSource` from the lean form of a checkpoint, or ``model.nemo``."""

    reach = _REACH

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Load what is in ``folder``.

        Raises:
            ModelLoadError: the files are damaged, or the model has no CTC head.
        """
        network, description = loading.load(folder, device, prefer_ctc=True)
        if not isinstance(network.head, CtcHead):
            raise ModelLoadError(
                f"The model in {folder} has no CTC head, which alignment needs.",
                fix="use a CTC or hybrid checkpoint, such as nvidia/parakeet-tdt_ctc-110m.",
                model="aligner",
                path=folder,
            )
        self._head = network.head
        self._compute = Compute(network, device, precision="float32")
        self._lock = threading.Lock()
        tokens = description.tokens
        marks = (number for number, piece in enumerate(tokens.pieces) if piece in tokens.marks)
        self.speller = Pieces(tokens.pieces, without=(*tokens.unknown, *tokens.control, *marks))
        self.blank = network.head.blank
        self.languages = description.languages
        self._frame_ms = network.config.frame_ms

    def emissions(self, batch: Sequence[Samples]) -> list[Emissions]:
        """See `EmissionSource.emissions`."""
        return [one for at in range(0, len(batch), _BATCH) for one in self._step(batch[at : at + _BATCH])]

    @torch.inference_mode()
    def _step(self, batch: Sequence[Samples]) -> list[Emissions]:
        device = self._compute.device
        # A recording shorter than a frame is filled up to one.
        least = int(self._frame_ms * SAMPLE_RATE_HZ / 1000)
        lengths = torch.tensor([max(samples.size, least) for samples in batch])
        audio = torch.nn.functional.pad(
            padded(batch, device=device), (0, max(0, least - max(s.size for s in batch)))
        )
        try:
            with self._lock, exact_convolutions():
                encoded, frames = self._compute.encode(on_device(audio, device), lengths)
                rows = self._head.out(encoded).float().log_softmax(-1).cpu()
                counts = frames.tolist()
        except RuntimeError as error:
            raise InferenceError(f"The aligner failed: {reason_of(error)}", model="aligner") from error
        # Frame i stands for what is around the sample at i strides.
        first_ms = -self._frame_ms / 2
        return [
            Emissions(row[:count].numpy(), first_ms, self._frame_ms)
            for row, count in zip(rows, counts, strict=True)
        ]
