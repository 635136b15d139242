"""The encoder of `fastconformer.encoder`, with its weights, through fused kernels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.engines.fastconformer.encoder import ConformerLayer, Encoder, halved
from orchestrator.engines.fastconformer.kernels import encoder as kernels

_OFFSETS_MULTIPLE = 8
"""Rows of a bfloat16 matrix that begin at multiples of 16 bytes are multiplied much faster."""


class FusedEncoder:
    """An `Encoder`'s computation in fewer passes over memory. The residual sum stays float32.

    Holds the encoder's own weights, and copies of the small ones in the layout that the kernels read.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        part = encoder.subsampling
        channels = part.first.out_channels
        self._first = (_taps(part.first.weight), _bias(part.first))
        self._depthwise = [(_taps(layer.weight), _bias(layer)) for layer in _modules(part.depthwise)]
        self._pointwise = [(layer.weight.flatten(1).t(), _bias(layer)) for layer in _modules(part.pointwise)]
        # Frequencies before channels here, channels before frequencies in the checkpoint.
        width = part.out.out_features
        self._out_weight = part.out.weight.view(width, channels, -1).transpose(1, 2).reshape(width, -1)
        self._layers = [_Layer(layer) for layer in encoder.layers if isinstance(layer, ConformerLayer)]

    def __call__(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """As `Encoder.forward`."""
        config = self._encoder.config
        x, frames = self._subsampled(mel, frames)
        batch, time, width = x.shape
        positions = self._positions(time, x)
        residual = x.reshape(-1, width).float()
        if config.scale_input:
            residual *= math.sqrt(width)
        normed = torch.empty((batch * time, width), dtype=x.dtype, device=x.device)
        kernels.add_norm(residual, None, None, self._layers[0].module.norm_before, normed)
        for index, layer in enumerate(self._layers):
            update = layer(residual, normed, positions, frames, batch)
            if index + 1 < len(self._layers):
                following = self._layers[index + 1].module.norm_before
                kernels.add_norm(residual, update, layer.module.norm_out, following, normed)
            else:
                kernels.add_norm(residual, update, None, layer.module.norm_out, normed)
        return normed.view(batch, time, width), frames

    def _positions(self, time: int, like: Tensor) -> Tensor:
        positions = self._encoder.positions(time, like)
        return F.pad(positions, (0, 0, 0, -len(positions) % _OFFSETS_MULTIPLE))

    def _subsampled(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        mel = mel.transpose(1, 2).contiguous()
        batch, time, mels = mel.shape
        frames = halved(frames)
        time, mels = halved(halved(time)), halved(halved(mels))
        channels = self._first[1].shape[0]
        x = mel.new_empty((batch, time, mels, channels), dtype=self._out_weight.dtype)
        kernels.first_convolutions(mel, frames, (*self._first, *self._depthwise[0]), x)
        for stage, (weight, bias) in enumerate(self._pointwise):
            if stage:
                time, mels = halved(time), halved(mels)
                before, x = x, x.new_empty((batch, time, mels, channels))
                kernels.depthwise_2d(before, frames, *self._depthwise[stage], x)
            frames = halved(frames)
            flat = torch._addmm_activation(bias, x.view(-1, channels), weight)  # with ReLU
            x = flat.view(batch, time, mels, channels)
        encoded = F.linear(x.view(batch, time, -1), self._out_weight, self._encoder.subsampling.out.bias)
        return encoded, frames


class _Layer:
    """One Conformer layer."""

    def __init__(self, module: ConformerLayer) -> None:
        self.module = module
        depthwise = module.convolution.depthwise
        self._depthwise = (depthwise.weight.squeeze(1).t().contiguous(), _bias(depthwise))

    def __call__(
        self, residual: Tensor, normed: Tensor, positions: Tensor, frames: Tensor, batch: int
    ) -> Tensor:
        """All parts of the layer; the last one's output is returned and not added yet.

        Args:
            residual: float32 ``[B * T, width]``, changed in place.
            normed: ``[B * T, width]``, its norm before the first part; overwritten.
            positions: ``[R, width]`` sinusoids.
            frames: int64 ``[B]``.
            batch: B.
        """
        part = self.module
        update = part.before.outer(F.silu(part.before.inner(normed), inplace=True))
        kernels.add_norm(residual, update, None, part.norm_attention, normed)
        update = self._attention(normed, positions, frames, batch)
        kernels.add_norm(residual, update, None, part.norm_convolution, normed)
        update = self._convolution(normed, frames, batch)
        kernels.add_norm(residual, update, None, part.norm_after, normed)
        last: Tensor = part.after.outer(F.silu(part.after.inner(normed), inplace=True))
        return last

    def _attention(self, normed: Tensor, positions: Tensor, frames: Tensor, batch: int) -> Tensor:
        part = self.module.attention
        rows, width = normed.shape
        qkv = part.qkv(normed)
        query = qkv[:, :width].view(rows, part.heads, part.head_width).transpose(0, 1) + part.position_bias
        offsets = part.position(positions).view(-1, part.heads, part.head_width).permute(1, 2, 0)
        positional = torch.matmul(query, offsets)
        mixed = normed  # read by now
        shape = (batch, rows // batch, width)
        kernels.relative_attention(
            qkv.view(*shape[:2], -1), positional, part.content_bias, frames, mixed.view(shape)
        )
        out: Tensor = part.out(mixed)
        return out

    def _convolution(self, normed: Tensor, frames: Tensor, batch: int) -> Tensor:
        part = self.module.convolution
        rows, width = normed.shape
        gated = F.glu(part.gated(normed), dim=-1)
        shape = (batch, rows // batch, width)
        kernels.depthwise_1d(gated.view(shape), frames, *self._depthwise, normed.view(shape))
        out: Tensor = part.out(normed)
        return out


def _modules(layers: torch.nn.ModuleList) -> list[torch.nn.Conv2d]:
    return [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]


def _taps(weight: Tensor) -> Tensor:
    """``[C, 1, 3, 3]`` as ``[9, C]``."""
    return weight.flatten(1).t().contiguous()


def _bias(layer: torch.nn.Conv1d | torch.nn.Conv2d) -> Tensor:
    return layer.weight.new_zeros(layer.out_channels) if layer.bias is None else layer.bias
