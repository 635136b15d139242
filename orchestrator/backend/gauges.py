"""What Triton's metrics page shows of a model's live streams."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from orchestrator.backend.streams import StreamCounts

REPORT_EVERY_S: Final = 1.0
"""Each number costs a question to the server, about 60 microseconds."""
_METRICS: Final[tuple[tuple[str, str, str, Callable[[StreamCounts], float]], ...]] = (
    ("speech_streams_open", "GAUGE", "Live streams now", lambda counts: counts.open),
    ("speech_streams_capacity", "GAUGE", "Live streams at most", lambda counts: counts.capacity),
    ("speech_streams_total", "COUNTER", "Live streams that began", lambda counts: counts.opened),
    ("speech_streams_refused_total", "COUNTER", "Streams without a place", lambda counts: counts.refused),
    ("speech_streams_expired_total", "COUNTER", "Streams idle for too long", lambda counts: counts.expired),
    ("speech_streams_lost_total", "COUNTER", "Streams that failed", lambda counts: counts.lost),
    ("speech_stream_steps_total", "COUNTER", "Calls of the engine", lambda counts: counts.steps),
    ("speech_stream_step_seconds_total", "COUNTER", "Time in the engine", lambda counts: counts.step_s),
)


class StreamGauges:
    """Metrics of one model instance, labelled with its name; nothing where the server cannot show any.

    Args:
        instance: the name of the model's instance.
        pb_utils: Triton's module.
        clock: seconds that never go back.
    """

    def __init__(self, instance: str, pb_utils: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reported_s = -REPORT_EVERY_S
        family_type: Any = getattr(pb_utils, "MetricFamily", None)
        # A metric is valid while its family lives, so both are kept.
        self._families: list[Any] = []
        self._metrics: list[tuple[Any, str, Callable[[StreamCounts], float]]] = []
        for name, kind, text, value in _METRICS if family_type is not None else ():
            family = family_type(name=name, description=text, kind=getattr(family_type, kind))
            self._families.append(family)
            self._metrics.append((family.Metric(labels={"instance": instance}), kind, value))
        self._last = StreamCounts(0, 0, 0, 0.0, 0, 0, 0, 0)

    def report(self, counts: StreamCounts) -> None:
        """Show ``counts``, at most once in `REPORT_EVERY_S`, and whenever the last stream has ended."""
        now_s = self._clock()
        if now_s - self._reported_s < REPORT_EVERY_S and counts.open:
            return
        self._reported_s = now_s
        for metric, kind, value in self._metrics:
            if kind == "GAUGE":
                metric.set(value(counts))
            elif (more := value(counts) - value(self._last)) > 0:
                metric.increment(more)
        self._last = counts

    def close(self) -> None:
        """Take the metrics off the page."""
        self._metrics.clear()
        self._families.clear()
