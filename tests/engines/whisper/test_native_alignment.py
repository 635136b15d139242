"""Token times from attention, checked against a plain search over all ways."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engines.whisper_native.alignment import first_frames, smoothed, token_starts_ms


def cheapest(cost: np.ndarray) -> float:
    """What the best way costs, tried out recursively."""
    tokens, frames = cost.shape
    best = np.full((tokens, frames), np.inf)
    for row, column in itertools.product(range(tokens), range(frames)):
        before = [
            best[row - up, column - left]
            for up, left in ((1, 1), (1, 0), (0, 1))
            if row - up >= 0 and column - left >= 0
        ]
        best[row, column] = cost[row, column] + min(before, default=0.0)
    return float(best[-1, -1])


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_the_way_is_the_cheapest_and_never_goes_back(tokens: int, frames: int, seed: int) -> None:
    cost = np.random.default_rng(seed).normal(size=(tokens, frames))
    first = first_frames(cost)
    assert first[0] == 0
    assert (np.diff(first) >= 0).all()
    # Between two tokens' first frames the way stays on the first of them, but for a last step across.
    ends = [*first[1:], frames - 1]
    ways = []
    for across in itertools.product((0, 1), repeat=tokens - 1):
        total = 0.0
        for row in range(tokens):
            last = ends[row] - (across[row] if row < tokens - 1 else 0)
            total += cost[row, first[row] : max(last, first[row]) + 1].sum()
        ways.append(total)
    assert min(ways) == pytest.approx(cheapest(cost))


def test_tokens_begin_where_their_heads_look() -> None:
    weights = np.full((2, 3, 90), 0.001, np.float32)
    for token, (begin, end) in enumerate(((0, 30), (30, 45), (45, 90))):
        weights[:, token, begin:end] = 0.1
    assert token_starts_ms(weights) == [0, 600, 900]


def test_heads_that_look_nowhere_make_no_trouble() -> None:
    assert token_starts_ms(np.zeros((1, 2, 5), np.float32))[0] == 0
    assert token_starts_ms(np.zeros((0, 2, 5), np.float32)) == [0, 0]
    assert len(token_starts_ms(np.ones((1, 3, 1), np.float32))) == 3


def test_the_filter_takes_out_single_frames_and_keeps_edges() -> None:
    line = np.array([[0, 0, 9, 0, 0, 5, 5, 5, 5, 5]], np.float32)
    assert smoothed(line).tolist() == [[0, 0, 0, 0, 5, 5, 5, 5, 5, 5]]
    short = np.array([[3.0, 1.0]], np.float32)
    assert smoothed(short).tolist() == short.tolist()
