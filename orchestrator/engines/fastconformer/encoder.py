"""The FastConformer encoder for inference, in plain torch.

Architecture: Conformer (Gulati et al. 2020) with 8x depthwise-striding subsampling (Rekesh et al. 2023) and
relative positions (Dai et al. 2019, appendix B). What training needs is folded away when weights are loaded
(`checkpoint`): batch norm into the depthwise convolution, the half-step of the feed-forward modules into
their output layer, the attention's three projections into one.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.engines.fastconformer.config import EncoderConfig

Count = TypeVar("Count", int, Tensor)


def halved(count: Count) -> Count:
    """Length after one convolution of kernel 3, stride 2, padding 1."""
    return (count - 1) // 2 + 1


class Subsampling(nn.Module):
    """Mel frames to encoder frames: log2(factor) strided convolutions, then one linear layer."""

    def __init__(self, mels: int, config: EncoderConfig) -> None:
        super().__init__()
        channels = config.subsampling_channels
        stages = int(math.log2(config.subsampling))
        self.first = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.depthwise = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels) for _ in range(stages - 1)
        )
        self.pointwise = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(stages - 1))
        for _ in range(stages):
            mels = halved(mels)
        self.out = nn.Linear(channels * mels, config.width)

    def forward(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, mels, T]`` and ``[B]`` to ``[B, T', width]`` and ``[B]``."""
        x = F.relu(self.first(mel.transpose(1, 2)[:, None]))
        frames = halved(frames)
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            # Frames past the end hold the bias of the layer before; they must not leak into the last frame.
            inside = torch.arange(x.shape[2], device=x.device) < frames[:, None]
            x = x.where(inside[:, None, :, None], 0.0)
            x = F.relu(pointwise(depthwise(x)))
            frames = halved(frames)
        encoded: Tensor = self.out(x.transpose(1, 2).flatten(2))
        return encoded, frames


class RelativeAttention(nn.Module):
    """Multi-head self-attention with relative positions."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.head_width = config.width // config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.bias)
        self.position = nn.Linear(config.width, config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=config.bias)
        self.content_bias = nn.Parameter(torch.zeros(config.heads, 1, self.head_width))
        self.position_bias = nn.Parameter(torch.zeros(config.heads, 1, self.head_width))

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor) -> Tensor:
        """Attend.

        Args:
            x: ``[B, T, width]``.
            positions: ``[2T - 1, width]``, offsets T-1 down to -(T-1).
            padding: ``[B, 1, 1, T]``, 0 for frames to attend to, very negative for padding.
        """
        batch, time, width = x.shape
        shape = (batch, time, 3, self.heads, self.head_width)
        query, key, value = self.qkv(x).view(shape).permute(2, 0, 3, 1, 4)
        offsets = self.position(positions).view(-1, self.heads, self.head_width).permute(1, 2, 0)
        scores = (query + self.position_bias) * self.head_width**-0.5 @ offsets  # [B, H, T, 2T - 1]
        # Row i wants offsets i, i-1, ...: T columns starting at column T-1-i, which is one skewed view.
        skewed = scores.as_strided(
            (batch, self.heads, time, time),
            (self.heads * time * (2 * time - 1), time * (2 * time - 1), 2 * time - 2, 1),
            time - 1,
        )
        mixed = F.scaled_dot_product_attention(
            query + self.content_bias, key, value, attn_mask=skewed + padding
        )
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, time, width))
        return out


class Convolution(nn.Module):
    """Gated pointwise, depthwise in time, pointwise."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.gated = nn.Linear(width, 2 * width, bias=config.bias)
        # Always with a bias: batch norm is folded into this layer.
        self.depthwise = nn.Conv1d(
            width, width, config.conv_kernel, padding=config.conv_kernel // 2, groups=width
        )
        self.out = nn.Linear(width, width, bias=config.bias)

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        """``x`` is ``[B, T, width]``; ``inside`` is ``[B, T, 1]``, 1 within the recording and 0 after it."""
        x = F.glu(self.gated(x), dim=-1) * inside
        x = F.silu(self.depthwise(x.transpose(1, 2))).transpose(1, 2)
        out: Tensor = self.out(x)
        return out


class FeedForward(nn.Module):
    """Two linear layers with SiLU between; the factor 1/2 of its residual step is in the weights."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.width, config.feed_forward, bias=config.bias)
        self.outer = nn.Linear(config.feed_forward, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, width]`` to the same."""
        out: Tensor = self.outer(F.silu(self.inner(x)))
        return out


class ConformerLayer(nn.Module):
    """Feed-forward, attention, convolution, feed-forward, each on a normalised input and added back."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_before, self.before = nn.LayerNorm(config.width), FeedForward(config)
        self.norm_attention, self.attention = nn.LayerNorm(config.width), RelativeAttention(config)
        self.norm_convolution, self.convolution = nn.LayerNorm(config.width), Convolution(config)
        self.norm_after, self.after = nn.LayerNorm(config.width), FeedForward(config)
        self.norm_out = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor, inside: Tensor) -> Tensor:
        """``[B, T, width]`` to the same; the other arguments as in the parts."""
        x = x + self.before(self.norm_before(x))
        x = x + self.attention(self.norm_attention(x), positions, padding)
        x = x + self.convolution(self.norm_convolution(x), inside)
        x = x + self.after(self.norm_after(x))
        out: Tensor = self.norm_out(x)
        return out


class Encoder(nn.Module):
    """Log-mel features to encoder frames."""

    def __init__(self, mels: int, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.subsampling = Subsampling(mels, config)
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.layers))

    def positions(self, time: int, like: Tensor) -> Tensor:
        """Sinusoids of the offsets ``time-1 .. -(time-1)``, ``[2 * time - 1, width]``."""
        width = self.config.width
        offsets = torch.arange(time - 1, -time, -1.0, device=like.device)[:, None]
        rates = torch.exp(torch.arange(0, width, 2.0, device=like.device) * -(math.log(10_000) / width))
        angles = offsets * rates
        return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1).to(like.dtype)

    def forward(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a padded batch.

        Args:
            mel: ``[B, mels, T]`` in the encoder's dtype.
            frames: int64 ``[B]``.

        Returns:
            ``[B, T', width]``, meaningless after each end, and int64 ``[B]`` frames.
        """
        x, frames = self.subsampling(mel, frames)
        if self.config.scale_input:
            x = x * math.sqrt(self.config.width)
        positions = self.positions(x.shape[1], x)
        valid = torch.arange(x.shape[1], device=x.device) < frames[:, None]
        inside = valid[:, :, None].to(x.dtype)
        # Finite, so that a recording of no frames gives numbers that nobody reads instead of NaN.
        padding = torch.zeros_like(valid, dtype=x.dtype).masked_fill(~valid, -1e4)[:, None, None]
        for layer in self.layers:
            x = layer(x, positions, padding, inside)
        return x, frames
