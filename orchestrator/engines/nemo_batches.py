"""Which recordings go through a model together, and what happens when they do not fit. No torch, no NeMo."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

Result = TypeVar("Result")

_LOG: Final = logging.getLogger(__name__)


def plan_batches(lengths: Sequence[int], *, max_padded: int, max_items: int) -> list[list[int]]:
    """Group recordings of near length, so that padding and peak memory stay small.

    Args:
        lengths: of each recording, in any unit.
        max_padded: the most that one group may measure once padded: items times the longest. A recording
            longer than that goes alone.
        max_items: the most recordings in one group.

    Returns:
        Indices into ``lengths``, each exactly once; the longest recordings come first, so a model that
        keeps its buffers meets its largest shape at once.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    groups: list[list[int]] = []
    for index in order:
        if groups:
            group = groups[-1]
            longest = lengths[group[0]]
            if len(group) < max_items and (len(group) + 1) * longest <= max_padded:
                group.append(index)
                continue
        groups.append([index])
    return groups


def run_splitting(
    group: Sequence[int],
    step: Callable[[Sequence[int]], list[Result]],
    *,
    out_of_memory: type[BaseException],
    release: Callable[[], None],
) -> list[Result]:
    """Run ``step`` on ``group``; where memory runs out, on its halves, down to single recordings.

    Args:
        group: indices of recordings.
        step: returns one result per index.
        out_of_memory: what ``step`` raises when the group does not fit.
        release: frees what the failed step left behind; called before the next try.

    Raises:
        out_of_memory: a single recording does not fit.
    """
    try:
        return step(group)
    except out_of_memory:
        if len(group) == 1:
            raise
    # Outside the handler: the traceback would keep the failed step's tensors alive.
    release()
    middle = len(group) // 2
    _LOG.warning("out of memory with %d recordings in one step; trying %d", len(group), middle)
    return [
        *run_splitting(group[:middle], step, out_of_memory=out_of_memory, release=release),
        *run_splitting(group[middle:], step, out_of_memory=out_of_memory, release=release),
    ]
