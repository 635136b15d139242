"""The best one-to-one matching of a few rows with some columns."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_ROWS: Final = 8
"""The cost doubles with each row; a window of 10 s has three speakers at most."""


def best_matching(scores: NDArray[np.float64]) -> list[int]:
    """The column of each row, -1 for none, so that the sum of the scores is highest.

    No column is used twice, and no pair with a score below 0 is used. Exact, by dynamic programming over the
    sets of rows that the columns so far have served: O(columns x rows x 2^rows). Of several matchings with
    the same sum it takes the one whose earlier columns serve earlier rows.

    Args:
        scores: ``[R, C]``, R <= `MAX_ROWS`; -inf forbids a pair.

    Raises:
        ValueError: more rows.
    """
    rows, columns = scores.shape
    if rows > MAX_ROWS:
        raise ValueError(f"{rows} rows; at most {MAX_ROWS} can be matched")
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, (-1,) * rows)}
    for column in range(columns):
        following = dict(best)
        for served, (total, chosen) in best.items():
            for row in range(rows):
                score = float(scores[row, column])
                if served >> row & 1 or not score >= 0:
                    continue
                candidate = total + score
                key = served | 1 << row
                if key not in following or candidate > following[key][0]:
                    following[key] = (candidate, (*chosen[:row], column, *chosen[row + 1 :]))
        best = following
    # Serving more rows is better than serving fewer for the same sum.
    return list(max(best.values(), key=lambda way: (way[0], sum(c >= 0 for c in way[1])))[1])
