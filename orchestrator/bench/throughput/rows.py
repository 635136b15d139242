"""One line of the benchmark's table: what was measured, how fast it was, and how that compares."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from orchestrator.bench.report import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row; None where a column makes no sense for it.

    Attributes:
        what: what was measured.
        clip_s: length of each recording, in seconds.
        batch: recordings in one call (with a server: on average).
        audio_s: audio recognised, in seconds.
        wall_s: the time that took.
        rtfx: audio over time.
        versus_engine: time over the engine's in this process for the same recordings, minus 1.
        p50_ms, p95_ms: of single recordings.
        words_per_s: words heard in a second of audio.
        client_cores: processors that the clients kept busy.
    """

    what: str
    clip_s: float
    batch: float | None = None
    audio_s: float | None = None
    wall_s: float | None = None
    rtfx: float | None = None
    versus_engine: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    words_per_s: float | None = None
    client_cores: float | None = None

    def row(self) -> Row:
        """For `Report`, rounded to what the measurement can bear."""
        named = {"RTFx" if name == "rtfx" else name: value for name, value in asdict(self).items()}
        digits = {"RTFx": 1, "batch": 1, "audio_s": 1, "wall_s": 5, "client_cores": 2}
        return {
            name: round(value, digits.get(name, 3)) if isinstance(value, float) else value
            for name, value in named.items()
        }


def timed(what: str, clip_s: float, size: int, walls: Sequence[float], words: int) -> Line:
    """Calls of equal batches: their median time, ``words`` in one of them."""
    wall = statistics.median(walls)
    audio = clip_s * size
    return Line(
        what=what,
        clip_s=clip_s,
        batch=size,
        audio_s=audio,
        wall_s=wall,
        rtfx=audio / wall,
        p50_ms=1000 * wall if size == 1 else None,
        p95_ms=1000 * percentile(walls, 95) if size == 1 else None,
        words_per_s=words / audio,
    )


def latencies(what: str, clip_s: float, values_ms: Sequence[float]) -> Line:
    """Recordings one after another, each alone."""
    p50 = statistics.median(values_ms)
    return Line(
        what=what,
        clip_s=clip_s,
        batch=1,
        rtfx=1000 * clip_s / p50,
        p50_ms=p50,
        p95_ms=percentile(values_ms, 95),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of ``values`` that ``share`` percent of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(len(ordered) * share / 100)) - 1]
