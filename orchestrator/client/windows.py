"""Cut long audio at silences into overlapping windows that a recogniser can take.

Consecutive windows share an overlap around a cut at the quietest place that can be found; the words of the
overlap are heard twice and joined by `orchestrator.client.seams`. Pure numpy, nothing is copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import Samples

_FRAME: Final = SAMPLE_RATE_HZ // 100
"""Samples in an energy frame: 10 ms."""
_SMOOTH_FRAMES: Final = 25
"""Energies are averaged over 250 ms: longer than the closure of a stop consonant (50-150 ms), which must not
pass for a pause."""
_SEARCH_SHARE: Final = 1 / 3
"""Share of a window in which its cut is looked for."""
_EDGE_SHARE: Final = 1 / 4
"""Share of the overlap in which each of its two edges is looked for."""


@dataclass(frozen=True, slots=True)
class Window:
    """One piece of a recording, in samples; ``start`` and ``end`` include the overlaps.

    Attributes:
        cut: where this window's own part begins; the seam with the window before lies around it. 0 for the
            first window.
    """

    start: int
    end: int
    cut: int

    def of(self, samples: Samples) -> Samples:
        """The window's samples, a view."""
        return samples[self.start : self.end]


def plan(samples: Samples, max_window_s: float, overlap_s: float) -> tuple[Window, ...]:
    """Windows that cover ``samples``, each at most ``max_window_s`` long.

    Cuts are spread evenly, so that the windows are of like length and batch with little padding, and moved
    to the quietest place nearby. Neighbours share at most ``overlap_s`` (less where the overlap's edges are
    moved to a quiet place too), and never more than a third of a window.

    Args:
        samples: float32 ``[n]`` at 16 kHz.
        max_window_s: in seconds, more than 0.
        overlap_s: in seconds, 0 for none.

    Returns:
        Windows in order; one for a recording that fits; the first starts at 0, the last ends at ``n``.

    Raises:
        ValueError: ``max_window_s`` is not positive or ``overlap_s`` is negative.
    """
    if not max_window_s > 0 or overlap_s < 0:
        raise ValueError(f"max_window_s={max_window_s} must be > 0 and overlap_s={overlap_s} >= 0")
    longest = max(int(max_window_s * SAMPLE_RATE_HZ), 6 * _FRAME)
    total = len(samples)
    if total <= longest:
        return (Window(0, total, 0),)
    # Even, so that both sides of a cut have their half of it.
    overlap = min(int(overlap_s * SAMPLE_RATE_HZ), longest // 3) // 2 * 2
    quiet = Loudness.of(samples)
    edges = [_Seam(0, 0, 0)]
    while total - edges[-1].start > longest:
        edges.append(_next_seam(quiet, edges[-1], total, longest, overlap))
    ends = [seam.end for seam in edges[1:]] + [total]
    return tuple(Window(seam.start, end, seam.cut) for seam, end in zip(edges, ends, strict=True))


@dataclass(frozen=True, slots=True)
class _Seam:
    """Where two windows meet: the later one starts at ``start``, the earlier one ends at ``end``."""

    start: int
    cut: int
    end: int


def _next_seam(quiet: Loudness, last: _Seam, total: int, longest: int, overlap: int) -> _Seam:
    half = overlap // 2
    step = longest - overlap
    """The least a window brings forward when its neighbours' overlaps are full."""
    latest = last.start + longest - half
    """The cut must leave room for its own half of the overlap inside the window."""
    rest = total - last.cut
    even = last.cut + rest // math.ceil(rest / step)
    search = int(longest * _SEARCH_SHARE)
    high = min(even + search // 2, latest)
    low = max(high - search, last.end + half + 1, last.cut + step // 2)
    cut = quiet.quietest(min(low, high), high)
    if overlap == 0:
        return _Seam(cut, cut, cut)
    reach = max(int(overlap * _EDGE_SHARE), 1)
    start = quiet.quietest(cut - half, cut - half + reach)
    end = quiet.quietest(cut + half - reach, min(cut + half, total))
    return _Seam(start, cut, end)


@dataclass(frozen=True, slots=True)
class Loudness:
    """Smoothed energies of 10 ms frames, to find quiet places in."""

    energies: NDArray[np.float64]

    @classmethod
    def of(cls, samples: Samples) -> Loudness:
        """Measure ``samples`` (float32 ``[n]``, n at least one frame)."""
        frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME)
        raw = np.einsum("ij,ij->i", frames, frames).astype(np.float64) / _FRAME
        # Means over `_SMOOTH_FRAMES` frames around each, fewer at the ends, as differences of running sums:
        # with the first and the last repeated beyond the ends, two slices hold them all.
        size, half = len(raw), _SMOOTH_FRAMES // 2
        sums = np.empty(size + 2 * half + 1)
        sums[: half + 1] = 0.0
        np.cumsum(raw, out=sums[half + 1 : half + 1 + size])
        sums[half + 1 + size :] = sums[half + size]
        frames_in = np.full(size, 2 * half + 1)
        short = min(half, size)
        frames_in[:short] -= np.arange(half, half - short, -1)
        frames_in[size - short :] -= np.arange(half - short, half) + 1
        return cls((sums[2 * half + 1 :] - sums[:size]) / frames_in)

    def quietest(self, low: int, high: int) -> int:
        """The quietest sample position in ``[low, high]``: the middle of the longest run at the minimum."""
        first, last = -(-low // _FRAME), min(high // _FRAME, len(self.energies) - 1)
        if last <= first:
            return (low + high) // 2
        part = self.energies[first : last + 1]
        run = _longest_run(np.flatnonzero(part <= part.min() * 1.001 + 1e-12))
        middle = first + int(run[len(run) // 2])
        return min(max(middle * _FRAME + _FRAME // 2, low), high)


def _longest_run(indices: NDArray[np.intp]) -> NDArray[np.intp]:
    """The longest stretch of consecutive numbers in ``indices`` (sorted, not empty)."""
    runs: Sequence[NDArray[np.intp]] = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    return max(runs, key=len)
