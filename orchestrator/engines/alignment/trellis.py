"""Which frames each token of a known text takes: the most probable path through a CTC model's probabilities.

The path is torchaudio's (``torchaudio.functional.forced_align``, after Kurzinger et al. 2020,
"CTC-Segmentation of Large Corpora"). What cannot be spelt is one token more that stands for any sound, as in
torchaudio's multilingual alignment (Pratap et al. 2023, "Scaling Speech Technology to 1,000+ Languages").
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

ANYTHING: Final = -1
"""The token that stands for any sound."""
_ANYTHING_COST: Final = 1.0
"""In natural logarithms, so that a token that can be heard is not taken for anything."""
_LEAST: Final = 1e-6


class Span(NamedTuple):
    """Where a token was found: frames, half open, and its mean probability there."""

    start: int
    end: int
    probability: float


def spans(log_probs: NDArray[np.float32], tokens: Sequence[int], blank: int) -> list[Span] | None:
    """The frames of each of ``tokens``; None where the recording is too short for all of them.

    Args:
        log_probs: ``[T, V]``.
        tokens: without blanks; `ANYTHING` for what has no token.
        blank: the blank's id.
    """
    repeated = sum(left == right for left, right in pairwise(tokens))
    if not tokens or len(log_probs) < len(tokens) + repeated:
        return None
    heard = 1.0 - np.exp(np.minimum(log_probs[:, blank], 0.0))
    anything = np.log(np.maximum(heard, _LEAST)) - _ANYTHING_COST
    table = np.concatenate([log_probs, anything[:, None].astype(np.float32)], axis=1)
    named = [table.shape[1] - 1 if token == ANYTHING else token for token in tokens]
    labels = _path(table, named, blank)
    # A token's run may hold no blank, and a blank lies between two equal tokens: runs are tokens.
    fresh = np.flatnonzero((labels != blank) & (labels != np.concatenate([[blank], labels[:-1]])))
    found = []
    for place, start in enumerate(fresh.tolist()):
        limit = fresh[place + 1] if place + 1 < len(fresh) else len(labels)
        size = int((labels[start:limit] == labels[start]).sum())
        column = table[start : start + size, labels[start]]
        found.append(Span(start, start + size, float(np.exp(np.minimum(column, 0.0)).mean())))
    return found if len(found) == len(tokens) else None


def _path(table: NDArray[np.float32], tokens: list[int], blank: int) -> NDArray[np.int64]:
    import torch
    from torchaudio.functional import forced_align

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels, _ = forced_align(
            torch.from_numpy(np.ascontiguousarray(table))[None],
            torch.tensor([tokens], dtype=torch.int64),
            blank=blank,
        )
    path: NDArray[np.int64] = labels[0].numpy()
    return path
