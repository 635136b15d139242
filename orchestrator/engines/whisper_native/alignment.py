"""When tokens were said, from where the decoder looked in the audio while it wrote them.

Some heads of Whisper's cross-attention follow the speech. Their weights, normalised, smoothed and averaged,
say how well each token fits each frame, and dynamic time warping finds the best way from the first token at
the first frame to the last at the last (T. Giorgino, Computing and Visualizing Dynamic Time Warping
Alignments in R, 2009). As OpenAI's whisper and transformers do it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

FRAME_MS: Final = 20
"""One encoder position."""
_SMOOTHED: Final = 7
"""Frames of the median filter."""

Weights = NDArray[np.float32]


def token_starts_ms(weights: Weights) -> list[int]:
    """When each token begins, in milliseconds from the window's start, never backwards.

    Args:
        weights: ``[heads, tokens, frames]``, attention while each token was written, frames of the window's
            sound only.
    """
    heads, tokens, frames = weights.shape
    if not heads or not tokens or not frames:
        return [0] * tokens
    spread = weights.std(axis=1, keepdims=True)
    normed = (weights - weights.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    fit = smoothed(normed).mean(axis=0)
    return [int(frame) * FRAME_MS for frame in first_frames(-fit.astype(np.float64))]


def smoothed(weights: Weights) -> Weights:
    """A median filter along the last axis, whose ends are mirrored; short rows stay as they are."""
    side = _SMOOTHED // 2
    if weights.shape[-1] <= side:
        return weights
    edges = [(0, 0)] * (weights.ndim - 1) + [(side, side)]
    wide = np.lib.stride_tricks.sliding_window_view(
        np.pad(weights, edges, mode="reflect"), _SMOOTHED, axis=-1
    )
    result: Weights = np.median(wide, axis=-1)
    return result


def first_frames(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """The first frame of each token on the cheapest way through ``cost``, ``[tokens, frames]``.

    A step goes to the next token, the next frame, or both. Sums are worked out for one diagonal after the
    other, whose entries do not depend on each other.
    """
    tokens, frames = cost.shape
    total = np.full((tokens + 1, frames + 1), np.inf)
    total[0, 0] = 0.0
    step = np.full((tokens + 1, frames + 1), 2, dtype=np.int8)  # 0: both, 1: token, 2: frame
    for diagonal in range(2, tokens + frames + 1):
        row = np.arange(max(1, diagonal - frames), min(tokens, diagonal - 1) + 1)
        column = diagonal - row
        both, token, frame = total[row - 1, column - 1], total[row - 1, column], total[row, column - 1]
        cheapest = np.where(
            (both < token) & (both < frame), 0, np.where((token < both) & (token < frame), 1, 2)
        )
        total[row, column] = cost[row - 1, column - 1] + np.choose(cheapest, (both, token, frame))
        step[row, column] = cheapest
    step[1:, 0] = 1
    first = np.zeros(tokens, dtype=np.int64)
    row, column = tokens, frames
    while row > 0 and column > 0:
        first[row - 1] = column - 1
        way = step[row, column]
        row, column = row - (way != 2), column - (way != 1)
    return first
