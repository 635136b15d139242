"""A FastConformer recogniser as the acoustic model, without NeMo: it loads in the time of torch's import."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from orchestrator.engines.acoustic import exact_convolutions, on_device
from orchestrator.engines.fastconformer import loading
from orchestrator.engines.fastconformer.compute import Compute
from orchestrator.engines.fastconformer.heads import CtcHead
from orchestrator.engines.nemo_words import TokenBatch, Vocabulary, ctc_tokens, transducer_tokens

_LOG: Final = logging.getLogger(__name__)


class FastModel:
    """An `orchestrator.engines.acoustic.AcousticModel`."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        *,
        prefer_ctc: bool = False,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        cuda_graphs: bool = True,
    ) -> None:
        """Read the files in ``folder``, see `loading`.

        Args:
            folder: the lean form, or ``model.nemo``.
            device: where to compute.
            prefer_ctc: take the CTC head of a hybrid instead of its transducer.
            precision: of the matrix products; ``auto`` as in `loading.precision_of`.
            cuda_graphs: as in `Compute`.

        Raises:
            UnsupportedModelError: the checkpoint needs what this package does not compute.
            ModelLoadError: a file is missing or damaged, or the device has no room.
        """
        begin = time.perf_counter()
        network, description = loading.load(folder, device, prefer_ctc=prefer_ctc)
        chosen = loading.precision_of(precision, folder, device, description)
        self._compute = Compute(network, device, precision=chosen, cuda_graphs=cuda_graphs)
        self._lock = threading.Lock()
        tokens = description.tokens
        self.vocabulary = Vocabulary(
            tokens.pieces, marks=tokens.marks, unknown=tokens.unknown, control=tokens.control
        )
        self.languages = description.languages
        self.frame_ms = network.config.frame_ms
        _LOG.debug("%s on %s in %s: %.3f s", folder, device, chosen, time.perf_counter() - begin)

    def feature_frames(self, samples: int) -> int:
        """How many feature frames so many samples at 16 kHz make."""
        return samples // self._compute.network.config.features.hop

    def tokens(self, audio: Tensor, lengths: Sequence[int]) -> TokenBatch:
        """What a padded batch says."""
        head = self._compute.network.head
        if isinstance(head, CtcHead):
            labels, certainty, frames = self._labels(head, audio, lengths)
            return ctc_tokens(labels.numpy(), certainty.numpy(), frames.numpy(), head.blank, self.vocabulary)
        table, counts = self._found(audio, lengths)
        count = counts.numpy()
        rows = table.numpy()[np.arange(table.shape[1]) < count[:, None]]
        ids, starts, durations = rows[:, :3].T.astype(np.int64)
        return transducer_tokens(
            count,
            ids,
            starts,
            durations if head.config.kind == "tdt" else None,
            np.ascontiguousarray(rows[:, 3]).view(np.float32),
            self.vocabulary,
        )

    @torch.inference_mode()
    def _labels(self, head: CtcHead, audio: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        with self._lock, exact_convolutions():
            encoded, frames = self._encode(audio, lengths)
            labels, certainty = head.labels(encoded)
            return labels.cpu(), certainty.cpu(), frames.cpu()

    @torch.inference_mode()
    def _found(self, audio: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        with self._lock, exact_convolutions():
            found, _ = self._compute.decode(*self._encode(audio, lengths))
            return found.table.cpu(), found.count.cpu()

    def _encode(self, audio: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        return self._compute.encode(on_device(audio, self._compute.device), torch.tensor(lengths))

    def release(self) -> None:
        """Give memory that is not in use back to the device."""
        with self._lock:
            self._compute.release()
