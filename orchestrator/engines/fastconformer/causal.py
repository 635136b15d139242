"""The cache-aware FastConformer encoder: what it hears of the past is kept, so no audio is encoded twice.

Noroozi et al. 2023, "Stateful Conformer with Cache-based Inference for Streaming Automatic Speech
Recognition": convolutions see only the past, and attention the frames of its own chunk and so many before it.
A stream's memory is, for each layer, the last inputs of the attention and of the depthwise convolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.engines.fastconformer.config import EncoderConfig
from orchestrator.engines.fastconformer.encoder import FeedForward, RelativeAttention

Count = TypeVar("Count", int, Tensor)

OVERLAP: Final = 3
"""Encoder frames of audio that are needed before a chunk: its first frame looks back 14 feature frames, and
the two before these are wrong where the Fourier transform meets the edge of the audio."""


def halved_causal(count: Count) -> Count:
    """Length after one causal convolution of kernel 3, stride 2: two frames of padding before, one after."""
    return count // 2 + 1


@dataclass(slots=True)
class Memory:
    """What the encoder remembers of a batch of streams.

    Attributes:
        heard: ``[layers, B, left, width]``, the attention's last inputs, the newest last.
        passed: ``[layers, B, kernel - 1, width]``, the convolution's last inputs.
        frames: int64 ``[B]``, how many of ``heard`` are there.
    """

    heard: Tensor
    passed: Tensor
    frames: Tensor


class CausalSubsampling(nn.Module):
    """`encoder.Subsampling` with convolutions that see no later frame."""

    def __init__(self, mels: int, config: EncoderConfig) -> None:
        super().__init__()
        channels = config.subsampling_channels
        stages = int(math.log2(config.subsampling))
        self.first = nn.Conv2d(1, channels, 3, stride=2)
        self.depthwise = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, groups=channels) for _ in range(stages - 1)
        )
        self.pointwise = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(stages - 1))
        for _ in range(stages):
            mels = halved_causal(mels)
        self.out = nn.Linear(channels * mels, config.width)

    def forward(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, mels, T]`` and ``[B]`` to ``[B, T', width]`` and ``[B]``."""
        edges = (2, 1, 2, 1)
        x = F.relu(self.first(F.pad(mel.transpose(1, 2)[:, None], edges)))
        frames = halved_causal(frames)
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            inside = torch.arange(x.shape[2], device=x.device) < frames[:, None]
            x = x.where(inside[:, None, :, None], 0.0)
            x = F.relu(pointwise(depthwise(F.pad(x, edges))))
            frames = halved_causal(frames)
        encoded: Tensor = self.out(x.transpose(1, 2).flatten(2))
        return encoded, frames


class CausalConvolution(nn.Module):
    """Gated pointwise, depthwise over past frames, pointwise."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.gated = nn.Linear(width, 2 * width, bias=config.bias)
        normed = config.conv_norm == "layer_norm"
        # Batch norm is folded into the depthwise layer, which then has a bias in any case.
        self.depthwise = nn.Conv1d(
            width, width, config.conv_kernel, groups=width, bias=config.bias or not normed
        )
        self.norm: nn.Module = nn.LayerNorm(width) if normed else nn.Identity()
        self.out = nn.Linear(width, width, bias=config.bias)

    def forward(self, x: Tensor, inside: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` ``[B, T, width]`` after ``before`` ``[B, kernel - 1, width]``; also returns both joined."""
        x = torch.cat((before, F.glu(self.gated(x), dim=-1) * inside), dim=1)
        mixed = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.out(F.silu(self.norm(mixed)))
        return out, x


class CausalLayer(nn.Module):
    """`encoder.ConformerLayer` over the chunk and what came before it."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_before, self.before = nn.LayerNorm(config.width), FeedForward(config)
        self.norm_attention, self.attention = nn.LayerNorm(config.width), RelativeAttention(config)
        self.norm_convolution, self.convolution = nn.LayerNorm(config.width), CausalConvolution(config)
        self.norm_after, self.after = nn.LayerNorm(config.width), FeedForward(config)
        self.norm_out = nn.LayerNorm(config.width)

    def forward(
        self, x: Tensor, positions: Tensor, hidden: Tensor, inside: Tensor, heard: Tensor, passed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``[B, T, width]`` to the same, and the inputs of attention and convolution, old and new joined.

        Args:
            x: the chunk.
            positions: as in `attend`.
            hidden: as in `attend`.
            inside: ``[B, T, 1]``, 1 within the recording and 0 after it.
            heard: ``[B, L, width]``, what the attention had before.
            passed: ``[B, kernel - 1, width]``, what the convolution had before.
        """
        x = x + self.before(self.norm_before(x))
        normed = self.norm_attention(x)
        known = torch.cat((heard, normed), dim=1)
        x = x + attend(self.attention, normed, known, positions, hidden)
        mixed, passed = self.convolution(self.norm_convolution(x), inside, passed)
        x = x + mixed
        x = x + self.after(self.norm_after(x))
        out: Tensor = self.norm_out(x)
        return out, known, passed


def attend(
    attention: RelativeAttention, x: Tensor, known: Tensor, positions: Tensor, hidden: Tensor
) -> Tensor:
    """Attention of the last T of S frames over all of them.

    Args:
        attention: its weights.
        x: ``[B, T, width]``, the last frames.
        known: ``[B, S, width]``, all frames.
        positions: ``[S + T - 1, width]``, offsets S-1 down to -(T-1).
        hidden: ``[B or 1, 1, T or 1, S]``, 0 for frames to attend to, very negative for others.
    """
    batch, time, width = x.shape
    span, heads, each = known.shape[1], attention.heads, attention.head_width
    weight, bias = attention.qkv.weight, attention.qkv.bias
    query = F.linear(x, weight[:width], None if bias is None else bias[:width])
    both = F.linear(known, weight[width:], None if bias is None else bias[width:])
    query = query.view(batch, time, heads, each).transpose(1, 2)
    key, value = both.view(batch, span, 2, heads, each).permute(2, 0, 3, 1, 4)
    offsets = attention.position(positions).view(-1, heads, each).permute(1, 2, 0)
    scores = (query + attention.position_bias) * each**-0.5 @ offsets
    # As in `RelativeAttention`: row i starts at column T-1-i.
    row = span + time - 1
    skewed = scores.as_strided(
        (batch, heads, time, span), (heads * time * row, time * row, row - 1, 1), time - 1
    )
    mixed = F.scaled_dot_product_attention(
        query + attention.content_bias, key, value, attn_mask=skewed + hidden
    )
    out: Tensor = attention.out(mixed.transpose(1, 2).reshape(batch, time, width))
    return out


class CausalEncoder(nn.Module):
    """Log-mel features to encoder frames, at once or chunk by chunk with a memory."""

    def __init__(self, mels: int, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.subsampling = CausalSubsampling(mels, config)
        self.layers = nn.ModuleList(CausalLayer(config) for _ in range(config.layers))

    @property
    def chunk(self) -> int:
        """Frames that see each other."""
        return self.config.right + 1

    def empty(self, batch: int, like: Tensor) -> Memory:
        """The memory before the first frame, on the device and in the type of ``like``."""
        config = self.config
        shape = (config.layers, batch)
        return Memory(
            heard=like.new_zeros((*shape, config.left, config.width)),
            passed=like.new_zeros((*shape, config.conv_kernel - 1, config.width)),
            frames=torch.zeros(batch, dtype=torch.long, device=like.device),
        )

    def positions(self, time: int, span: int, like: Tensor) -> Tensor:
        """Sinusoids of the offsets ``span-1 .. -(time-1)``, ``[span + time - 1, width]``."""
        width = self.config.width
        offsets = torch.arange(span - 1, -time, -1.0, device=like.device)[:, None]
        rates = torch.exp(torch.arange(0, width, 2.0, device=like.device) * -(math.log(10_000) / width))
        angles = offsets * rates
        return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1).to(like.dtype)

    def forward(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a padded batch of whole recordings: as `Encoder.forward`."""
        x, frames = self.before_layers(mel, frames)
        time = x.shape[1]
        number = torch.arange(time, device=x.device)
        chunk = number // self.chunk
        apart = chunk[:, None] - chunk
        seen = (apart >= 0) & (apart <= self.config.left // self.chunk)
        valid = number < frames[:, None]
        hidden = torch.zeros((), dtype=x.dtype, device=x.device).where(
            seen & valid[:, None], torch.tensor(-1e4, dtype=x.dtype, device=x.device)
        )[:, None]
        inside = valid[:, :, None].to(x.dtype)
        memory = self.empty(x.shape[0], x)
        positions = self.positions(time, time, x)
        for layer, passed in zip(self.layers, memory.passed, strict=True):
            x, _, _ = layer(x, positions, hidden, inside, x[:, :0], passed)
        return x, frames

    def before_layers(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, mels, T]`` and ``[B]`` to the layers' input ``[B, T', width]`` and ``[B]``."""
        x, frames = self.subsampling(mel, frames)
        return (x * math.sqrt(self.config.width) if self.config.scale_input else x), frames

    def step(self, x: Tensor, frames: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Encode the next chunk of each stream.

        Args:
            x: ``[B, chunk, width]`` of `before_layers`.
            frames: int64 ``[B]``, how many frames are there; fewer than a chunk at the end of a stream.
            memory: what the last step returned.

        Returns:
            ``[B, chunk, width]``, and the memory after these frames.
        """
        left, time = self.config.left, x.shape[1]
        number = torch.arange(left + time, device=x.device)
        seen = (number >= left - memory.frames[:, None]) & (number < left + frames[:, None])
        hidden = torch.zeros_like(seen, dtype=x.dtype).masked_fill(~seen, -1e4)[:, None, None]
        inside = (number[left:] < left + frames[:, None])[:, :, None].to(x.dtype)
        positions = self.positions(time, left + time, x)
        heards, passeds = [], []
        for layer, heard, passed in zip(self.layers, memory.heard, memory.passed, strict=True):
            x, known, joined = layer(x, positions, hidden, inside, heard, passed)
            heards.append(_last(known, frames, left))
            passeds.append(_last(joined, frames, self.config.conv_kernel - 1))
        after = (memory.frames + frames).clamp(max=left)
        return x, Memory(torch.stack(heards), torch.stack(passeds), after)


def _last(joined: Tensor, frames: Tensor, count: int) -> Tensor:
    """The last ``count`` of the old frames and of the first ``frames`` new ones, ``[B, count, width]``."""
    at = frames[:, None] + torch.arange(count, device=joined.device)
    return joined.gather(1, at[:, :, None].expand(-1, -1, joined.shape[2]))
