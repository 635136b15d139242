"""The search for the most streams that a server bears: doubling, then bisection, in bounded time."""

from __future__ import annotations

from collections.abc import Callable, Iterator


def tries(
    passes: Callable[[int], bool],
    *,
    first: int,
    most: int,
    share: float,
    in_time: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[int, bool]]:
    """Try numbers of streams until the highest good one is known well enough; yields each with its outcome.

    Doubling goes up from ``first`` until a number fails, or halves downwards where ``first`` itself fails;
    bisection follows between the highest that passed and the lowest that failed.

    Args:
        passes: whether that many streams go well.
        first: the first number, at least 1.
        most: the highest number that may be tried.
        share: bisection ends when the two are no further apart than this share of the lower.
        in_time: asked before each try but the first; False ends the search.
    """
    good, bad = 0, most + 1
    number = min(first, most)
    while True:
        passed = passes(number)
        yield number, passed
        if passed:
            good = number
        else:
            bad = number
        if good == most or bad - good <= max(1, int(share * good)) or not in_time():
            return
        number = min(2 * good, most) if bad > most else (good + bad) // 2
