# ruff: noqa: N803 (constants of a kernel are written in capitals)
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""Kernels of the encoder, and the functions that launch them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LAYER_NORM_EPSILON = 1e-5
"""torch's default, which NeMo uses."""


@triton.jit(do_not_specialize=["time", "quarter"])
def _first_convolutions(
    mel,
    inside,
    weight,
    bias,
    depth_weight,
    depth_bias,
    out,
    time,
    quarter,
    MELS: tl.constexpr,
    HALF_MELS: tl.constexpr,
    QUARTER_MELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A 3x3 convolution of one channel, ReLU, and a 3x3 depthwise convolution, both of stride 2."""
    batch = tl.program_id(1)
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    exists = place < quarter * QUARTER_MELS
    holds = column < CHANNELS
    at_t, at_m = place // QUARTER_MELS, place % QUARTER_MELS
    valid = tl.load(inside + batch)
    # The first convolution is a product of nine neighbours, padded to the least that tensor cores take.
    tap = tl.arange(0, 16)
    is_tap = tap < 9
    kernel = tl.load(
        weight + tap[:, None] * CHANNELS + column[None, :], mask=is_tap[:, None] & holds[None, :], other=0.0
    )
    first_bias = tl.load(bias + column, mask=holds, other=0.0).to(tl.float32)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    total += tl.load(depth_bias + column, mask=holds, other=0.0).to(tl.float32)[None, :]
    start = mel + batch.to(tl.int64) * time * MELS
    for outer in range(9):
        t1 = 2 * at_t - 1 + outer // 3
        m1 = 2 * at_m - 1 + outer % 3
        # Past the end the first convolution would leave its bias.
        counts = exists & (t1 >= 0) & (t1 < valid) & (m1 >= 0) & (m1 < HALF_MELS)
        t0 = (2 * t1 - 1)[:, None] + (tap // 3)[None, :]
        m0 = (2 * m1 - 1)[:, None] + (tap % 3)[None, :]
        there = counts[:, None] & is_tap[None, :] & (t0 >= 0) & (t0 < time) & (m0 >= 0) & (m0 < MELS)
        x = tl.load(start + t0 * MELS + m0, mask=there, other=0.0)
        value = tl.dot(x, kernel, input_precision="ieee") + first_bias[None, :]
        value = tl.where(counts[:, None], tl.maximum(value, 0.0), 0.0)
        w = tl.load(depth_weight + outer * CHANNELS + column, mask=holds, other=0.0)
        total += value * w.to(tl.float32)[None, :]
    row = batch.to(tl.int64) * quarter * QUARTER_MELS + place
    tl.store(
        out + row[:, None] * CHANNELS + column[None, :],
        total.to(out.dtype.element_ty),
        mask=exists[:, None] & holds[None, :],
    )


@triton.jit(do_not_specialize=["time", "half"])
def _depthwise_2d(
    x,
    inside,
    weight,
    bias,
    out,
    time,
    half,
    MELS: tl.constexpr,
    HALF_MELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A 3x3 depthwise convolution of stride 2 over ``[B, time, mels, channels]``."""
    batch = tl.program_id(1)
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    exists = place < half * HALF_MELS
    holds = column < CHANNELS
    at_t, at_m = place // HALF_MELS, place % HALF_MELS
    valid = tl.load(inside + batch)
    start = x + batch.to(tl.int64) * time * (MELS * CHANNELS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    total += tl.load(bias + column, mask=holds, other=0.0).to(tl.float32)[None, :]
    for tap in range(9):
        t = 2 * at_t - 1 + tap // 3
        m = 2 * at_m - 1 + tap % 3
        counts = exists & (t >= 0) & (t < valid) & (m >= 0) & (m < MELS)
        value = tl.load(
            start + (t * MELS + m)[:, None] * CHANNELS + column[None, :],
            mask=counts[:, None] & holds[None, :],
            other=0.0,
        )
        w = tl.load(weight + tap * CHANNELS + column, mask=holds, other=0.0)
        total += value.to(tl.float32) * w.to(tl.float32)[None, :]
    row = batch.to(tl.int64) * half * HALF_MELS + place
    tl.store(
        out + row[:, None] * CHANNELS + column[None, :],
        total.to(out.dtype.element_ty),
        mask=exists[:, None] & holds[None, :],
    )


@triton.jit
def _normalized(value, weight, bias, column, holds, width, epsilon):
    mean = tl.sum(value, 0) / width
    centred = tl.where(holds, value - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / width + epsilon)
    w = tl.load(weight + column, mask=holds, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=holds, other=0.0).to(tl.float32)
    return centred * scale * w + b


@triton.jit
def _add_norm(
    residual,
    update,
    between_weight,
    between_bias,
    weight,
    bias,
    out,
    width,
    epsilon,
    ADD: tl.constexpr,
    BETWEEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``residual += update``, normalised in between if asked for; ``out`` is the layer norm of the result."""
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    holds = column < width
    value = tl.load(residual + row + column, mask=holds, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(update + row + column, mask=holds, other=0.0).to(tl.float32)
    if BETWEEN:
        value = _normalized(value, between_weight, between_bias, column, holds, width, epsilon)
    if ADD or BETWEEN:
        tl.store(residual + row + column, value.to(residual.dtype.element_ty), mask=holds)
    value = _normalized(value, weight, bias, column, holds, width, epsilon)
    tl.store(out + row + column, value.to(out.dtype.element_ty), mask=holds)


@triton.jit(do_not_specialize=["time"])
def _depthwise_1d(
    x,
    inside,
    weight,
    bias,
    out,
    time,
    WIDTH: tl.constexpr,
    KERNEL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A depthwise convolution in time, and SiLU."""
    batch = tl.program_id(1)
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    holds = column < WIDTH
    valid = tl.load(inside + batch)
    start = batch.to(tl.int64) * time
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    total += tl.load(bias + column, mask=holds, other=0.0).to(tl.float32)[None, :]
    for tap in tl.static_range(KERNEL):
        t = at + tap - KERNEL // 2
        counts = ((t >= 0) & (t < valid))[:, None] & holds[None, :]
        value = tl.load(x + (start + t)[:, None] * WIDTH + column[None, :], mask=counts, other=0.0)
        w = tl.load(weight + tap * WIDTH + column, mask=holds, other=0.0).to(tl.float32)
        total += value.to(tl.float32) * w[None, :]
    total *= tl.sigmoid(total)
    tl.store(
        out + (start + at)[:, None] * WIDTH + column[None, :],
        total.to(out.dtype.element_ty),
        mask=(at < time)[:, None] & holds[None, :],
    )


@triton.jit(do_not_specialize=["batches", "time", "offsets"])
def _relative_attention(
    qkv,
    positional,
    content_bias,
    inside,
    out,
    scale,
    batches,
    time,
    offsets,
    HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Softmax attention with relative positions, one block of queries a program."""
    width: tl.constexpr = HEADS * HEAD
    batch = tl.program_id(1) // HEADS
    head = tl.program_id(1) % HEADS
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, BLOCK)
    of_head = d < HEAD
    valid = tl.load(inside + batch)
    start = batch.to(tl.int64) * time
    base = qkv + head * HEAD
    query = tl.load(
        base + (start + i)[:, None] * (3 * width) + d[None, :],
        mask=(i < time)[:, None] & of_head[None, :],
        other=0.0,
    )
    bias = tl.load(content_bias + head * HEAD + d, mask=of_head, other=0.0)
    query = (query.to(tl.float32) + bias.to(tl.float32)[None, :]).to(qkv.dtype.element_ty)
    best = tl.full((ROWS,), -1.0e30, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, BLOCK), tl.float32)
    row = (head * batches + batch).to(tl.int64) * time + i
    # Row i wants offsets i, i-1, ...: the columns from time - 1 - i on.
    skewed = positional + row * offsets + (time - 1 - i)
    for first in range(0, valid, COLUMNS):
        j = first + tl.arange(0, COLUMNS)
        seen = j < valid
        there = (i < time)[:, None] & seen[None, :]
        tile = base + (start + j)[:, None] * (3 * width) + d[None, :]
        part = seen[:, None] & of_head[None, :]
        key = tl.load(tile + width, mask=part, other=0.0)
        value = tl.load(tile + 2 * width, mask=part, other=0.0)
        score = tl.dot(query, tl.trans(key), input_precision="ieee")
        score += tl.load(skewed[:, None] + j[None, :], mask=there, other=0.0).to(tl.float32)
        score = tl.where(seen[None, :], score * scale, -1.0e30)
        higher = tl.maximum(best, tl.max(score, 1))
        share = tl.exp(score - higher[:, None])
        shrink = tl.exp(best - higher)
        total = total * shrink + tl.sum(share, 1)
        mixed = mixed * shrink[:, None]
        mixed += tl.dot(share.to(value.dtype), value, input_precision="ieee")
        best = higher
    # A recording of no frames has nothing to attend to.
    mixed = mixed / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(
        out + (start + i)[:, None] * width + head * HEAD + d[None, :],
        mixed.to(out.dtype.element_ty),
        mask=(i < time)[:, None] & of_head[None, :],
    )


def first_convolutions(
    mel: Tensor, inside: Tensor, weights: tuple[Tensor, Tensor, Tensor, Tensor], out: Tensor
) -> None:
    """The first two convolutions of the subsampling.

    Args:
        mel: ``[B, T, mels]``, contiguous.
        inside: ``[B]``, frames that count after the first convolution.
        weights: of the first ``[9, C]`` and ``[C]``, of the depthwise one ``[9, C]`` and ``[C]``.
        out: ``[B, T'', mels'', C]``.
    """
    batch, time, mels = mel.shape
    _, quarter, quarter_mels, channels = out.shape
    columns = min(128, triton.next_power_of_2(channels))
    grid = (triton.cdiv(quarter * quarter_mels, 64), batch, triton.cdiv(channels, columns))
    _first_convolutions[grid](
        mel,
        inside,
        *weights,
        out,
        time,
        quarter,
        MELS=mels,
        HALF_MELS=(mels - 1) // 2 + 1,
        QUARTER_MELS=quarter_mels,
        CHANNELS=channels,
        ROWS=64,
        COLUMNS=max(16, columns),
        num_warps=4,
    )


def depthwise_2d(x: Tensor, inside: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    """A later depthwise convolution of the subsampling.

    Args:
        x: ``[B, T, mels, C]``; what lies past a recording's end does not count.
        inside: ``[B]``, frames of ``x`` that count.
        weight: ``[9, C]``.
        bias: ``[C]``.
        out: ``[B, T', mels', C]``.
    """
    batch, time, mels, channels = x.shape
    _, half, half_mels, _ = out.shape
    columns = min(128, triton.next_power_of_2(channels))
    grid = (triton.cdiv(half * half_mels, 32), batch, triton.cdiv(channels, columns))
    _depthwise_2d[grid](
        x,
        inside,
        weight,
        bias,
        out,
        time,
        half,
        MELS=mels,
        HALF_MELS=half_mels,
        CHANNELS=channels,
        ROWS=32,
        COLUMNS=columns,
        num_warps=4,
    )


def add_norm(
    residual: Tensor,
    update: Tensor | None,
    between: torch.nn.LayerNorm | None,
    norm: torch.nn.LayerNorm,
    out: Tensor,
) -> None:
    """Add ``update`` to ``residual`` in place, normalise it, and put ``norm`` of the result into ``out``.

    Args:
        residual: ``[N, width]``.
        update: ``[N, width]``, None for nothing to add.
        between: the norm that ends a layer, None within one.
        norm: the norm that begins the next part.
        out: ``[N, width]``.
    """
    rows, width = residual.shape
    middle = between or norm
    _add_norm[(rows,)](
        residual,
        residual if update is None else update,
        middle.weight,
        middle.bias,
        norm.weight,
        norm.bias,
        out,
        width,
        LAYER_NORM_EPSILON,
        ADD=update is not None,
        BETWEEN=between is not None,
        BLOCK=triton.next_power_of_2(width),
        num_warps=4,
    )


def depthwise_1d(x: Tensor, inside: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    """The depthwise convolution of a Conformer layer, and SiLU.

    Args:
        x: ``[B, T, width]``.
        inside: ``[B]``, frames that count.
        weight: ``[kernel, width]``.
        bias: ``[width]``.
        out: ``[B, T, width]``.
    """
    batch, time, width = out.shape
    columns = min(64, triton.next_power_of_2(width))
    grid = (triton.cdiv(time, 32), batch, triton.cdiv(width, columns))
    _depthwise_1d[grid](
        x,
        inside,
        weight,
        bias,
        out,
        time,
        WIDTH=width,
        KERNEL=weight.shape[0],
        ROWS=32,
        COLUMNS=columns,
        num_warps=4,
    )


def relative_attention(
    qkv: Tensor, positional: Tensor, content_bias: Tensor, inside: Tensor, out: Tensor
) -> None:
    """Multi-head attention with relative positions (Dai et al. 2019).

    Args:
        qkv: ``[B, T, 3 * width]``.
        positional: ``[H, B * T, R]``, queries times the projected offsets T-1 down to -(T-1); R >= 2T - 1.
        content_bias: ``[H, 1, head width]``, added to the queries before they meet the keys.
        inside: ``[B]``, frames that count.
        out: ``[B, T, width]``.
    """
    batch, time, _ = out.shape
    heads, _, head = content_bias.shape
    rows, columns = (64, 64) if time > 32 else (32, 32)
    if qkv.dtype == torch.float32:  # twice the size in the multiprocessor's memory
        columns = 32
    _relative_attention[(triton.cdiv(time, rows), batch * heads)](
        qkv,
        positional,
        content_bias,
        inside,
        out,
        head**-0.5,
        batch,
        time,
        positional.shape[2],
        HEADS=heads,
        HEAD=head,
        BLOCK=max(16, triton.next_power_of_2(head)),
        ROWS=rows,
        COLUMNS=columns,
        num_warps=4,
        num_stages=1,
    )
