"""NeMo's own modules as the acoustic model: preprocessor, encoder, batched greedy decoder."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.engines import nemo_decoding, nemo_restore
from orchestrator.engines.acoustic import exact_convolutions, on_device
from orchestrator.engines.nemo_archive import Checkpoint
from orchestrator.engines.nemo_words import TokenBatch
from orchestrator.errors import ModelLoadError


class NemoModel:
    """An `orchestrator.engines.acoustic.AcousticModel`. Importing NeMo takes many seconds."""

    def __init__(
        self,
        path: Path,
        checkpoint: Checkpoint,
        device: torch.device,
        *,
        prefer_ctc: bool,
        cuda_graphs: bool,
    ) -> None:
        """Restore the checkpoint at ``path``; the other arguments as in `nemo_decoding.build_head`.

        Raises:
            ModelLoadError: the weights are corrupt or do not fit, or the decoder cannot run in batches.
        """
        self.model: Any = nemo_restore.restore(path, checkpoint, device)
        try:
            self.head = nemo_decoding.build_head(
                self.model,
                checkpoint.decoder,
                prefer_ctc=prefer_ctc,
                cuda_graphs=cuda_graphs and device.type == "cuda",
            )
        except ModelLoadError as error:
            error.path = str(path)
            raise
        self.vocabulary = self.head.vocabulary
        self.languages = checkpoint.languages
        self.frame_ms = checkpoint.frame_ms
        self._device = device
        self._lock = threading.Lock()

    def feature_frames(self, samples: int) -> int:
        """How many feature frames so many samples at 16 kHz make."""
        return int(self.model.preprocessor.featurizer.get_seq_len(torch.tensor(samples)))

    @torch.inference_mode()
    def tokens(self, audio: Tensor, lengths: Sequence[int]) -> TokenBatch:
        """What a padded batch says."""
        with self._lock, exact_convolutions():
            features, feature_lengths = self.model.preprocessor(
                input_signal=on_device(audio, self._device),
                length=torch.tensor(lengths, device=self._device),
            )
            encoded, encoded_lengths = self.model.encoder(audio_signal=features, length=feature_lengths)
            return self.head.decode(encoded, encoded_lengths)

    def release(self) -> None:
        """Give memory that is not in use back to the device."""
        if self._device.type == "cuda":
            with self._lock:
                torch.cuda.empty_cache()
