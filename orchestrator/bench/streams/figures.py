"""What the times of a run's chunks say: pure, from arrays to figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

GROWTH_SHARE: Final = 0.25
"""Lag grows where its median in the last quarter of a run is more than this share of a chunk above that of
the second quarter, and above nearly all of that quarter: a server that is one percent too slow loses 0.1 s in
the 10 s between them."""

Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ChunkTimes:
    """When the chunks of all streams came and went, in seconds from the start of the run, each ``[n]``.

    Attributes:
        due: the chunk's last sample was there, by the stream's absolute schedule.
        sent: its request was sent; late where the answer to the chunk before was.
        done: its answer was there.
    """

    due: Seconds
    sent: Seconds
    done: Seconds

    @classmethod
    def joined(cls, parts: Sequence[ChunkTimes]) -> ChunkTimes:
        """All chunks of several clients."""
        if not parts:
            empty = np.zeros(0)
            return cls(empty, empty, empty)
        columns = ((part.due, part.sent, part.done) for part in parts)
        due, sent, done = (np.concatenate(column) for column in zip(*columns, strict=True))
        return cls(due, sent, done)

    @property
    def latency_ms(self) -> Seconds:
        """From sending to the answer."""
        return (self.done - self.sent) * 1000

    @property
    def lag_ms(self) -> Seconds:
        """From the chunk's last sample to the answer: what a person who speaks waits for."""
        return (self.done - self.due) * 1000

    @property
    def late_ms(self) -> Seconds:
        """How late the request was sent."""
        return (self.sent - self.due) * 1000

    def between(self, begin_s: float, end_s: float) -> ChunkTimes:
        """The chunks that were due from ``begin_s`` until before ``end_s``."""
        chosen = (self.due >= begin_s) & (self.due < end_s)
        return ChunkTimes(self.due[chosen], self.sent[chosen], self.done[chosen])


@dataclass(frozen=True, slots=True)
class Figures:
    """One run. Times in milliseconds; ``None`` where no chunk was answered.

    Attributes:
        streams: how many there were.
        chunks: answers.
        p50, p95, p99, highest: latency of all chunks, from sending to the answer.
        p95_second_half: latency in the second half of the run.
        lag_p95, lag_highest: from a chunk's last sample to its answer.
        late_p95: how late requests were sent.
        growing: lag grew during the run.
        errors: failed requests by gRPC status.
        fault: why the run does not count; None: it does.
    """

    streams: int
    chunks: int
    p50: float | None
    p95: float | None
    p99: float | None
    highest: float | None
    p95_second_half: float | None
    lag_p95: float | None
    lag_highest: float | None
    late_p95: float | None
    growing: bool
    errors: int
    fault: str | None


def figures(
    times: ChunkTimes,
    errors: Mapping[str, int],
    *,
    streams: int,
    chunk_ms: int,
    limit_ms: float,
    begin_s: float,
    end_s: float,
) -> Figures:
    """Judge a run.

    Args:
        times: of all its chunks.
        errors: failed requests by kind.
        streams: how many streams there were.
        chunk_ms: audio in a chunk.
        limit_ms: the highest p95 latency of a run that counts.
        begin_s: when all streams were under way; chunks before are left out.
        end_s: when they ended.
    """
    steady = times.between(begin_s, np.inf)
    middle = (begin_s + end_s) / 2
    half = times.between(middle, np.inf)
    grows = growing(steady, chunk_ms, begin_s, end_s)
    failed = sum(errors.values())
    p95 = percentile(half.latency_ms, 95)
    lag = percentile(half.lag_ms, 95)
    fault = None
    if failed:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(errors.items()))
        fault = f"errors: {kinds}"
    elif p95 is None or lag is None:
        fault = "no answers"
    elif p95 > limit_ms:
        fault = f"p95 {p95:.0f} ms over {limit_ms:g}"
    elif grows:
        fault = "lag grows"
    elif lag > limit_ms + chunk_ms:
        fault = f"lag p95 {lag:.0f} ms, more than a chunk behind"
    return Figures(
        streams=streams,
        chunks=int(steady.due.size),
        p50=percentile(steady.latency_ms, 50),
        p95=percentile(steady.latency_ms, 95),
        p99=percentile(steady.latency_ms, 99),
        highest=percentile(steady.latency_ms, 100),
        p95_second_half=p95,
        lag_p95=percentile(steady.lag_ms, 95),
        lag_highest=percentile(steady.lag_ms, 100),
        late_p95=percentile(steady.late_ms, 95),
        growing=grows,
        errors=failed,
        fault=fault,
    )


def percentile(values: Seconds, share: float) -> float | None:
    """The smallest value that at least ``share`` percent are not above (nearest rank); None of none."""
    if not values.size:
        return None
    return float(np.percentile(values, share, method="inverted_cdf"))


def growing(times: ChunkTimes, chunk_ms: int, begin_s: float, end_s: float) -> bool:
    """Whether streams fall behind more and more between ``begin_s`` and ``end_s``."""
    quarter = (end_s - begin_s) / 4
    early = times.between(begin_s + quarter, begin_s + 2 * quarter).lag_ms
    late = times.between(begin_s + 3 * quarter, np.inf).lag_ms
    if not early.size or not late.size:
        return False
    last = float(np.median(late))
    return last - float(np.median(early)) > GROWTH_SHARE * chunk_ms and last > float(np.percentile(early, 95))
