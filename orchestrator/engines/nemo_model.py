"""NeMo's own modules as the acoustic model: preprocessor, encoder, batched greedy decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.engines import nemo_decoding, nemo_restore
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
        self._device = device

    def feature_frames(self, samples: int) -> int:
        """How many feature frames so many samples at 16 kHz make."""
        return int(self.model.preprocessor.featurizer.get_seq_len(torch.tensor(samples)))

    @torch.inference_mode()
    def tokens(self, audio: NDArray[np.float32], lengths: Sequence[int]) -> TokenBatch:
        """What a padded batch says."""
        features, feature_lengths = self.model.preprocessor(
            input_signal=torch.from_numpy(audio).to(self._device),
            length=torch.tensor(lengths, device=self._device),
        )
        encoded, encoded_lengths = self.model.encoder(audio_signal=features, length=feature_lengths)
        return self.head.decode(encoded, encoded_lengths)

    def release(self) -> None:
        """Give memory that is not in use back to the device."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
