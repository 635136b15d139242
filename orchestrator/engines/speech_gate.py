"""Where in a recording somebody speaks, from its loudness alone.

For engines that take one piece of speech at a time. A pure function of the samples: it keeps no state, so
a recording gives the same pieces whatever came before it. It tells sound from background, not speech from
music; recognisers that need more than that bring their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.contract import SAMPLE_RATE_HZ

FRAME: Final = 320
"""Samples to a frame, 20 ms: short enough to see a pause, long enough to hold a pitch period."""

_SILENCE_DBFS: Final = (-78.0, -60.0)
"""Never speech below the first, however quiet the rest; below the second only in a quiet recording."""
_QUIET_SHARE: Final = 0.5
"""In a quiet recording, silence ends this far up from background to peak. One fixed level cannot do: at
-60 dBFS half of what is said is lost where the speech is recorded at -53, and at -78 dBFS two thirds of a
meeting's room noise is taken for speech. Over six recordings of meetings and a telephone call, 180 s, with
speaker turns, seconds of speech lost plus background taken for speech: 23 at -60, 52 at -78, 25 with this
rule; the same ones 15 dB quieter: 62, 25 and 22 (between 0.45 and 0.55 it hardly differs)."""
_FLOOR_PERCENTILE: Final = 10.0
"""Even dense speech pauses in a tenth of its frames; their level is the background's."""
_MARGIN_DB: Final = (4.0, 10.0)
"""Speech stands this much above the background: the least in noise, the most in a quiet room."""
_MARGIN_SHARE: Final = 0.3
"""The margin as a share of the distance from background to peak."""
_CLICK_FRAMES: Final = 3
"""Sound shorter than 60 ms that stands alone is a click: the shortest words last about 100 ms."""
_FAINT_DB: Final = 22.0
"""Sound that stays this far below the recording's loudest hundredth is breath, chair or room."""
_BRIDGE_FRAMES: Final = 15
"""Pauses up to 300 ms stay inside a run: stop consonants and soft word ends are that quiet."""
_PAD_FRAMES: Final = 8
"""A run is widened by 160 ms at each end, for soft first and last sounds."""
_AROUND_FRAMES: Final = 10
"""A piece is heard with up to 200 ms around it: see `surroundings`."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One stretch to recognise: ``runs`` of sound, in frames, first start to last end.

    Runs are in order and apart; the pauses between them are inside the piece.
    """

    runs: tuple[tuple[int, int], ...]

    @property
    def start(self) -> int:
        """First frame."""
        return self.runs[0][0]

    @property
    def end(self) -> int:
        """The frame after the last."""
        return self.runs[-1][1]


def pieces(samples: NDArray[np.float32], *, max_s: float, join_s: float) -> list[Piece]:
    """Cut ``samples`` (mono, 16 kHz) into pieces of sound.

    Args:
        samples: ``[n]``.
        max_s: no piece is longer; longer sound is cut at its quietest frame.
        join_s: runs whose pause is shorter go into one piece, as far as ``max_s`` allows.
    """
    level = _levels(samples)
    return _joined(_runs(level), level, max_s, join_s) if level.size else []


def pieces_of(
    samples: NDArray[np.float32], speech: NDArray[np.bool_], *, max_s: float, join_s: float
) -> list[Piece]:
    """The same for frames of which something else has said that they are ``speech``, such as voice activity.

    Args:
        samples: ``[n]``.
        speech: ``[n // FRAME]``.
        max_s: as in `pieces`.
        join_s: as in `pieces`.
    """
    level = _levels(samples)
    return _joined(_widened(_bridged(speech), level.size), level, max_s, join_s)


def _joined(
    runs: Sequence[tuple[int, int]], level: NDArray[np.float32], max_s: float, join_s: float
) -> list[Piece]:
    """Pieces of ``runs``: see `pieces`."""
    limit = max(1, int(max_s * SAMPLE_RATE_HZ) // FRAME)
    joined = int(join_s * SAMPLE_RATE_HZ) // FRAME
    result: list[list[tuple[int, int]]] = []
    for run in runs:
        for start, end in _cut(run, level, limit):
            last = result[-1] if result else None
            if last and start - last[-1][1] < joined and end - last[0][0] <= limit:
                last.append((start, end))
            else:
                result.append([(start, end)])
    return [Piece(tuple(runs)) for runs in result]


def surroundings(found: Sequence[Piece], count: int) -> list[tuple[int, int]]:
    """First frame and the frame after the last that each piece of a recording is best heard with.

    Recognisers hear the first and last word better with what is really around them; silence put there
    instead does harm. Never beyond half-way to the next piece, so that no word is heard twice.

    Args:
        found: the recording's pieces, in order.
        count: whole frames in the recording.
    """
    if not found:
        return []
    middles = ((before.end + after.start) // 2 for before, after in pairwise(found))
    bounds = [0, *middles, count]
    return [
        (max(piece.start - _AROUND_FRAMES, low), min(piece.end + _AROUND_FRAMES, high))
        for piece, (low, high) in zip(found, pairwise(bounds), strict=True)
    ]


def _levels(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Frame levels in dB relative to full scale, after a first difference that takes out DC and hum."""
    count = samples.size // FRAME
    if count == 0:
        return np.zeros(0, np.float32)
    sharp = np.diff(samples[: count * FRAME], prepend=samples[:1])
    power = np.mean(np.square(sharp.reshape(count, FRAME)), axis=1)
    return np.asarray(10.0 * np.log10(power + 1e-12), dtype=np.float32)


def _runs(level: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Runs of frames with sound, widened and bridged."""
    floor = float(np.percentile(level, _FLOOR_PERCENTILE))
    least, most = _MARGIN_DB
    above = float(level.max()) - floor
    margin = min(max(_MARGIN_SHARE * above, least), most)
    lowest, usual = _SILENCE_DBFS
    active = level > max(floor + margin, lowest, min(floor + _QUIET_SHARE * above, usual))
    faint = float(np.percentile(level, 99.0)) - _FAINT_DB
    kept = [
        (start, end)
        for start, end in _bridged(active)
        if end - start >= _CLICK_FRAMES and float(level[start:end].max()) >= faint
    ]
    return _widened(kept, level.size)


def _bridged(active: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Runs of active frames, over short pauses."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], active.view(np.int8), [0]))))
    runs: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        if runs and start - runs[-1][1] <= _BRIDGE_FRAMES:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    return runs


def _widened(runs: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """Runs with the soft sounds at their ends. Widening stops half-way to the neighbour, so that runs stay
    apart and no sound is heard twice."""
    if not runs:
        return []
    bounds = [0, *((a[1] + b[0]) // 2 for a, b in pairwise(runs)), count]
    return [
        (max(start - _PAD_FRAMES, low), min(end + _PAD_FRAMES, high))
        for (start, end), (low, high) in zip(runs, pairwise(bounds), strict=True)
    ]


def _cut(run: tuple[int, int], level: NDArray[np.float32], limit: int) -> Iterator[tuple[int, int]]:
    """Cut a run into parts of at most ``limit`` frames, at the quietest frame of each part's second half."""
    start, end = run
    while end - start > limit:
        low = start + max(1, limit // 2)
        # Three frames together: one quiet frame may lie inside a stop consonant.
        window = np.convolve(level[low - 1 : start + limit], np.ones(3) / 3, mode="same")
        cut = low - 1 + int(np.argmin(window[1:])) + 1
        yield start, cut
        start = cut
    yield start, end
