"""What computes inside the Parakeet engine: padded audio in, tokens out. Two models fit: NeMo's and ours."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from orchestrator.engines.base import PCM16_SCALE, Pcm16, Samples
from orchestrator.engines.nemo_words import TokenBatch, Vocabulary


class AcousticModel(Protocol):
    """A loaded model. Thread-safe: calls wait for each other where they need the device."""

    vocabulary: Vocabulary
    languages: tuple[str, ...]
    """BCP-47 primary tags, empty where the weights do not say."""
    frame_ms: float
    """Milliseconds per encoder frame."""

    def feature_frames(self, samples: int) -> int:
        """How many feature frames so many samples at 16 kHz make."""

    def tokens(self, audio: Tensor, lengths: Sequence[int]) -> TokenBatch:
        """What a padded batch says.

        Args:
            audio: `padded` of the recordings.
            lengths: samples of each recording.
        """

    def release(self) -> None:
        """Give memory that is not in use back to the device."""


def padded(clips: Sequence[Samples | Pcm16], *, device: torch.device) -> Tensor:
    """``[B, N]`` on the host: the recordings side by side, zero after each end.

    On its way to a GPU the batch lies in page-locked memory, and stays 16-bit where all recordings are: half
    the bytes to move. Otherwise it is float32.
    """
    on_gpu = device.type == "cuda"
    keep = on_gpu and all(clip.dtype == np.int16 for clip in clips)
    shape = (len(clips), max(clip.size for clip in clips))
    if on_gpu:
        batch = torch.empty(shape, dtype=torch.int16 if keep else torch.float32, pin_memory=True)
    else:  # NumPy asks for large pages, which spares most of the time that fresh memory costs
        batch = torch.from_numpy(np.empty(shape, dtype=np.float32))
    for row, clip in zip(batch.numpy(), clips, strict=True):
        heard = row[: clip.size]
        if clip.dtype == row.dtype:
            heard[:] = clip
        else:
            np.multiply(clip, np.float32(1 / PCM16_SCALE), out=heard)
        row[clip.size :] = 0
    return batch


def on_device(audio: Tensor, device: torch.device) -> Tensor:
    """A batch of `padded` as float32 on ``device``."""
    audio = audio.to(device, non_blocking=True)
    return audio * (1 / PCM16_SCALE) if audio.dtype == torch.int16 else audio


def exact_convolutions() -> AbstractContextManager[Any]:
    """Within it convolutions of float32 on CUDA do not round to ten bits (TF32), as they do by default.

    That is enough for another batch to decide another word. The switch is the process's, so enter it only
    while nothing else computes.
    """
    flags: AbstractContextManager[Any] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags
