from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from orchestrator.diarization.matching import MAX_ROWS, best_matching


def total(scores: np.ndarray, columns: list[int]) -> float:
    return float(sum(scores[row, column] for row, column in enumerate(columns) if column >= 0))


def best_total(scores: np.ndarray) -> float:
    """By trying everything."""
    rows, columns = scores.shape
    choices = itertools.product(range(-1, columns), repeat=rows)
    return max(
        total(scores, list(chosen))
        for chosen in choices
        if len({c for c in chosen if c >= 0}) == sum(c >= 0 for c in chosen)
        and all(c < 0 or scores[row, c] >= 0 for row, c in enumerate(chosen))
    )


@given(
    arrays(
        np.float64,
        st.tuples(st.integers(0, 3), st.integers(0, 4)),
        elements=st.floats(-2, 2, width=16) | st.just(-np.inf),
    )
)
def test_no_other_matching_is_better(scores: np.ndarray) -> None:
    columns = best_matching(scores)
    used = [column for column in columns if column >= 0]
    assert len(columns) == len(scores)
    assert len(set(used)) == len(used)
    assert all(scores[row, column] >= 0 for row, column in enumerate(columns) if column >= 0)
    assert total(scores, columns) == pytest.approx(best_total(scores), abs=1e-9)


def test_greed_would_be_wrong() -> None:
    assert best_matching(np.array([[0.9, 0.8], [0.8, 0.1]])) == [1, 0]


def test_a_pair_of_score_zero_is_made() -> None:
    assert best_matching(np.array([[0.0]])) == [0]


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        best_matching(np.zeros((MAX_ROWS + 1, 2)))
