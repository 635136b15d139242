"""A FastConformer checkpoint as the acoustic model, without NeMo: it loads in the time of torch's import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.engines.fastconformer import checkpoint
from orchestrator.engines.fastconformer.compute import Compute
from orchestrator.engines.fastconformer.heads import CtcHead
from orchestrator.engines.nemo_words import TokenBatch, Vocabulary, ctc_tokens, transducer_tokens


class FastModel:
    """An `orchestrator.engines.acoustic.AcousticModel`."""

    def __init__(self, path: Path, device: torch.device, *, prefer_ctc: bool) -> None:
        """Read the ``.nemo`` file ``path``.

        Args:
            path: the checkpoint.
            device: where to compute.
            prefer_ctc: take the CTC head of a hybrid instead of its transducer.

        Raises:
            UnsupportedModelError: the checkpoint needs what this package does not compute.
            ModelLoadError: it is corrupt.
        """
        network, tokens = checkpoint.load(path, device, prefer_ctc=prefer_ctc)
        self._compute = Compute(network, device)
        self.vocabulary = Vocabulary(
            tokens.pieces, marks=tokens.marks, unknown=tokens.unknown, control=tokens.control
        )

    def feature_frames(self, samples: int) -> int:
        """How many feature frames so many samples at 16 kHz make."""
        return samples // self._compute.network.config.features.hop

    @torch.inference_mode()
    def tokens(self, audio: NDArray[np.float32], lengths: Sequence[int]) -> TokenBatch:
        """What a padded batch says."""
        encoded, encoder_frames = self._compute.encode(torch.from_numpy(audio), torch.tensor(lengths))
        head = self._compute.network.head
        if isinstance(head, CtcHead):
            labels, certainty = (part.cpu().numpy() for part in head.labels(encoded))
            return ctc_tokens(labels, certainty, encoder_frames.cpu().numpy(), head.blank, self.vocabulary)
        found, _ = self._compute.decode(encoded, encoder_frames)
        count = found.count.cpu().numpy()
        table = found.table.cpu().numpy()[np.arange(found.table.shape[1]) < count[:, None]]
        ids, frames, durations = table[:, :3].T.astype(np.int64)
        return transducer_tokens(
            count,
            ids,
            frames,
            durations if head.config.kind == "tdt" else None,
            np.ascontiguousarray(table[:, 3]).view(np.float32),
            self.vocabulary,
        )

    def release(self) -> None:
        """Give memory that is not in use back to the device."""
        self._compute.release()
