"""Log-mel features, normalised over each recording, as NeMo's FastConformer models were trained on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from orchestrator.engines.fastconformer.config import FeatureConfig

STD_FLOOR = 1e-5
"""Added to each standard deviation, as in training; keeps silence finite."""


class LogMel(nn.Module):
    """Pre-emphasis, short-time Fourier transform, mel filters, log, zero mean and unit variance.

    The window and the filters are part of the checkpoint (buffers ``window`` ``[window]`` and ``filters``
    ``[mels, fft // 2 + 1]``).
    """

    window: Tensor
    filters: Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window", torch.zeros(config.window))
        self.register_buffer("filters", torch.zeros(config.mels, config.fft // 2 + 1))

    def frames(self, lengths: Tensor) -> Tensor:
        """Feature frames in recordings of so many samples."""
        return torch.div(lengths, self.config.hop, rounding_mode="floor")

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features of a padded batch.

        Args:
            audio: float32 ``[B, N]``, full scale +-1, anything after a recording's end.
            lengths: int64 ``[B]``, samples.

        Returns:
            float32 ``[B, mels, T]``, zero after each end, and int64 ``[B]`` frames.
        """
        valid = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
        emphasised = torch.cat(
            (audio[:, :1], audio[:, 1:] - self.config.preemphasis * audio[:, :-1]), dim=1
        ).where(valid, 0.0)
        spectrum = torch.stft(
            emphasised,
            n_fft=self.config.fft,
            hop_length=self.config.hop,
            win_length=self.config.window,
            window=self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        power = torch.view_as_real(spectrum).square().sum(-1)
        mel = torch.log(self.filters @ power + self.config.log_guard)
        if not self.config.normalize:
            frames = self.frames(lengths)
            inside = torch.arange(mel.shape[2], device=mel.device) < frames[:, None]
            return mel.where(inside[:, None], 0.0), frames
        return self._normalized(mel, self.frames(lengths))

    @staticmethod
    def _normalized(mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        valid = (torch.arange(mel.shape[2], device=mel.device) < frames[:, None])[:, None]
        count = frames[:, None, None].to(mel.dtype)
        mean = mel.where(valid, 0.0).sum(2, keepdim=True) / count.clamp(min=1)
        centred = (mel - mean).where(valid, 0.0)
        variance = centred.square().sum(2, keepdim=True) / (count - 1).clamp(min=1)
        return centred / (variance.sqrt() + STD_FLOOR), frames
