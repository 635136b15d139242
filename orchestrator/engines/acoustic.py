"""What computes inside the Parakeet engine: padded audio in, tokens out. Two models fit: NeMo's and ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.engines.nemo_words import TokenBatch, Vocabulary


class AcousticModel(Protocol):
    """A loaded model. Not thread-safe."""

    vocabulary: Vocabulary

    def feature_frames(self, samples: int) -> int:
        """How many feature frames so many samples at 16 kHz make."""

    def tokens(self, audio: NDArray[np.float32], lengths: Sequence[int]) -> TokenBatch:
        """What a padded batch says.

        Args:
            audio: ``[B, N]`` at 16 kHz, zero after a recording's end.
            lengths: samples of each recording, at most N.
        """

    def release(self) -> None:
        """Give memory that is not in use back to the device."""
