# ruff: noqa: N803 (constants of a kernel are written in capitals)
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""Kernels of one step of greedy transducer decoding, and the functions that launch them."""

from __future__ import annotations

from typing import Final

import triton
import triton.language as tl
from torch import Tensor

_ACTIVATIONS: Final = {"relu": 0, "tanh": 1, "sigmoid": 2}


@triton.jit(do_not_specialize=["frames"])
def _joint_input(
    projected,
    predicted,
    time,
    lengths,
    out,
    frames,
    width,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The activation of a recording's present frame plus its prediction."""
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    holds = column < width
    # A recording that is finished looks at its last frame again; nobody reads the answer.
    at = tl.minimum(tl.load(time + row), tl.load(lengths + row) - 1)
    at = tl.maximum(at, 0) + row.to(tl.int64) * frames
    value = tl.load(projected + at * width + column, mask=holds, other=0.0).to(tl.float32)
    value += tl.load(predicted + row * width + column, mask=holds, other=0.0).to(tl.float32)
    if ACTIVATION == 0:
        value = tl.maximum(value, 0.0)
    elif ACTIVATION == 1:
        value = 2.0 * tl.sigmoid(2.0 * value) - 1.0
    else:
        value = tl.sigmoid(value)
    tl.store(out + row * width + column, value.to(out.dtype.element_ty), mask=holds)


@triton.jit(do_not_specialize=["columns", "max_symbols"])
def _choose(
    logits,
    bias,
    durations,
    time,
    lengths,
    count,
    at_frame,
    found,
    emitted,
    embedding,
    fed,
    labels,
    columns,
    hidden,
    max_symbols,
    outputs,
    DURATIONS: tl.constexpr,
    LABELS: tl.constexpr,
    HIDDEN: tl.constexpr,
):
    """Record each recording's best token and duration, move on, and feed the token back."""
    row = tl.program_id(0)
    column = tl.arange(0, LABELS)
    holds = column < labels
    score = tl.load(logits + row * outputs + column, mask=holds, other=0.0).to(tl.float32)
    score += tl.load(bias + column, mask=holds, other=0.0).to(tl.float32)
    score = tl.where(holds, score, -float("inf"))
    best = tl.max(score, 0)
    token = tl.min(tl.where(score == best, column, LABELS), 0)
    probability = 1.0 / tl.sum(tl.exp(score - best), 0)
    confidence = (probability * labels - 1) / (labels - 1)
    confidence = tl.minimum(tl.maximum(confidence, 0.0), 1.0)
    is_blank = token == labels - 1

    if DURATIONS > 0:
        choice = tl.arange(0, 16)
        length = tl.load(logits + row * outputs + labels + choice, mask=choice < DURATIONS, other=0.0)
        length = length.to(tl.float32)
        length += tl.load(bias + labels + choice, mask=choice < DURATIONS, other=0.0).to(tl.float32)
        length = tl.where(choice < DURATIONS, length, -float("inf"))
        longest = tl.min(tl.where(length == tl.max(length, 0), choice, 16), 0)
        lasts = tl.load(durations + longest).to(tl.int64)
        moves = tl.where(is_blank, tl.maximum(lasts, 1), lasts)
    else:
        lasts = tl.full((), 1, tl.int64)
        moves = tl.where(is_blank, lasts, 0)

    now = tl.load(time + row)
    active = now < tl.load(lengths + row)
    emit = active & (is_blank == 0)
    step = emit.to(tl.int64)
    so_far = tl.load(count + row)
    slot = found + (row.to(tl.int64) * columns + so_far) * 4
    tl.store(slot, token.to(tl.int32), mask=emit)
    tl.store(slot + 1, now.to(tl.int32), mask=emit)
    tl.store(slot + 2, lasts.to(tl.int32), mask=emit)
    tl.store(slot + 3, confidence.to(tl.int32, bitcast=True), mask=emit)
    tl.store(count + row, so_far + step)
    tl.store(emitted + row, step.to(tl.int32))

    stays = emit & (moves == 0)
    crowd = tl.where(stays, tl.load(at_frame + row) + 1, 0)
    forced = crowd >= max_symbols
    tl.store(at_frame + row, tl.where(forced, 0, crowd))
    tl.store(time + row, now + tl.where(active, moves + forced.to(tl.int64), 0))

    width = tl.arange(0, HIDDEN)
    inside = width < hidden
    vector = tl.load(embedding + token.to(tl.int64) * hidden + width, mask=inside, other=0.0)
    tl.store(fed + row * (2 * hidden) + width, vector, mask=inside)


@triton.jit
def _lstm_cell(
    gates, bias, cell, emitted, recurrent, following, width, HAS_FOLLOWING: tl.constexpr, BLOCK: tl.constexpr
):
    """One LSTM cell for the recordings that found a token; the others keep their state."""
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    holds = column < width
    keep = holds & (tl.load(emitted + row) != 0)
    base = gates + row * (4 * width) + column
    enter = tl.load(base, mask=keep, other=0.0).to(tl.float32)
    enter += tl.load(bias + column, mask=keep, other=0.0).to(tl.float32)
    forget = tl.load(base + width, mask=keep, other=0.0).to(tl.float32)
    forget += tl.load(bias + width + column, mask=keep, other=0.0).to(tl.float32)
    candidate = tl.load(base + 2 * width, mask=keep, other=0.0).to(tl.float32)
    candidate += tl.load(bias + 2 * width + column, mask=keep, other=0.0).to(tl.float32)
    leave = tl.load(base + 3 * width, mask=keep, other=0.0).to(tl.float32)
    leave += tl.load(bias + 3 * width + column, mask=keep, other=0.0).to(tl.float32)
    kept = tl.load(cell + row * width + column, mask=keep, other=0.0)
    kept = tl.sigmoid(forget) * kept + tl.sigmoid(enter) * (2.0 * tl.sigmoid(2.0 * candidate) - 1.0)
    tl.store(cell + row * width + column, kept, mask=keep)
    hidden = tl.sigmoid(leave) * (2.0 * tl.sigmoid(2.0 * kept) - 1.0)
    hidden = hidden.to(recurrent.dtype.element_ty)
    # Each layer's input is [what is fed, its own hidden state] in one row.
    tl.store(recurrent + row * (2 * width) + width + column, hidden, mask=keep)
    if HAS_FOLLOWING:
        tl.store(following + row * (2 * width) + column, hidden, mask=keep)


def joint_input(
    projected: Tensor, predicted: Tensor, time: Tensor, lengths: Tensor, activation: str, out: Tensor
) -> None:
    """What goes into the joint's output layer.

    Args:
        projected: ``[B, T, J]``, encoder frames.
        predicted: ``[B, J]``, of the prediction network.
        time: int64 ``[B]``, each recording's present frame.
        lengths: int64 ``[B]``, its frames.
        activation: relu, tanh or sigmoid.
        out: ``[B, J]``.
    """
    batch, frames, width = projected.shape
    _joint_input[(batch,)](
        projected,
        predicted,
        time,
        lengths,
        out,
        frames,
        width,
        ACTIVATION=_ACTIVATIONS[activation],
        BLOCK=triton.next_power_of_2(width),
        num_warps=2,
    )


def choose(
    logits: Tensor,
    bias: Tensor,
    durations: Tensor,
    position: tuple[Tensor, Tensor, Tensor, Tensor],
    max_symbols: int,
    found: Tensor,
    emitted: Tensor,
    embedding: Tensor,
    fed: Tensor,
) -> None:
    """Take the best token and duration, record them, move on, and feed the token back.

    Args:
        logits: ``[B, P]`` without the bias; P is at least ``V + 1 + D``.
        bias: ``[V + 1 + D]``.
        durations: int64 ``[D]``; D is 0 for RNNT.
        position: time, lengths, count and tokens at this frame, int64 ``[B]`` each; changed in place.
        max_symbols: tokens at one frame before it is left.
        found: int32 ``[B, U, 4]``, see `heads.Tokens`.
        emitted: int32 ``[B]``, set to 1 where a token was found.
        embedding: ``[V + 1, H]``.
        fed: ``[B, 2 * H]``, whose first half becomes the token's embedding.
    """
    batch, outputs = logits.shape
    labels, hidden = embedding.shape
    block = triton.next_power_of_2(labels)
    _choose[(batch,)](
        logits,
        bias,
        durations,
        *position,
        found,
        emitted,
        embedding,
        fed,
        labels,
        found.shape[1],
        hidden,
        max_symbols,
        outputs,
        DURATIONS=durations.numel(),
        LABELS=block,
        HIDDEN=triton.next_power_of_2(hidden),
        num_warps=8 if block >= 4096 else 2,
    )


def lstm_cell(
    gates: Tensor, bias: Tensor, cell: Tensor, emitted: Tensor, inputs: Tensor, following: Tensor | None
) -> None:
    """One layer of the prediction network, after its matrix product.

    Args:
        gates: ``[B, 4 * H]`` without the bias: enter, forget, candidate, leave.
        bias: ``[4 * H]``.
        cell: float32 ``[B, H]``, changed where a token was found.
        emitted: int32 ``[B]``.
        inputs: ``[B, 2 * H]``, this layer's input and hidden state; the hidden state is renewed.
        following: the same of the next layer, whose input becomes the hidden state; None for the last.
    """
    batch, width = cell.shape
    _lstm_cell[(batch,)](
        gates,
        bias,
        cell,
        emitted,
        inputs,
        inputs if following is None else following,
        width,
        HAS_FOLLOWING=following is not None,
        BLOCK=triton.next_power_of_2(width),
        num_warps=4,
    )
