"""Whisper's log-mel features: 25 ms frames every 10 ms, 80 or 128 mel bands, of windows of 30 s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import Samples
from orchestrator.engines.mel import mel_filters

_FFT: Final = 400
_HOP: Final = SAMPLE_RATE_HZ // 100
_LEAST: Final = 1e-10
_RANGE: Final = 8.0
"""Decades below the loudest that count; all further down is as loud as that."""


class Features:
    """Makes features on a device."""

    def __init__(self, mels: int, frames: int, device: torch.device) -> None:
        self._samples = frames * _HOP
        self._device = device
        self._window = torch.hann_window(_FFT, device=device)
        self._filters = torch.from_numpy(mel_filters(mels, _FFT)).to(device)

    def __call__(self, windows: Sequence[Samples]) -> Tensor:
        """float32 ``[windows, mels, frames]``; windows are filled up with silence, or cut."""
        audio = np.zeros((len(windows), self._samples), dtype=np.float32)
        for row, samples in zip(audio, windows, strict=True):
            row[: samples.size] = samples[: self._samples]
        spectrum = torch.stft(
            torch.from_numpy(audio).to(self._device), _FFT, _HOP, window=self._window, return_complex=True
        )
        # The last frame lies half outside, and the model was trained without it.
        mel = self._filters @ spectrum[..., :-1].abs().square()
        log = mel.clamp(min=_LEAST).log10()
        loudest = log.amax(dim=(1, 2), keepdim=True)
        return (log.maximum(loudest - _RANGE) + 4.0) / 4.0
