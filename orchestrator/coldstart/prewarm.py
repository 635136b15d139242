"""Prewarming: a running server works on every size once, so that no user waits for a kernel to be compiled.

Each shape is computed cold, once; then again, to see that its first request takes no longer than later ones.
A shape that is slower at first than later is measured again: what was compiled meanwhile stays. So a second
run finds everything warm, and does no harm while the server serves. What was measured before need not be
again: the cold pass alone computes everything.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from orchestrator.coldstart.compiled import Compiled
from orchestrator.coldstart.shapes import ServedModel, Shape, shapes_of
from orchestrator.errors import OverloadedError, SpeechError
from orchestrator.progress import ProgressReporter, SilentProgress

MAX_RATIO: Final = 1.2
"""How much longer the first request of a shape may take than later ones."""
LIMIT_S: Final = 900.0
_SLACK_S: Final = 0.03
"""Less than that is the machine's, not a kernel's: the shortest compilation takes longer."""
_STEADY: Final = 3
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One shape of one model, in seconds of waiting.

    Attributes:
        model: its name.
        batch: recordings or streams at once.
        seconds: of audio each.
        cold_s: the very first round.
        first_s: the first round once everything had been computed.
        steady_s: the median of the rounds after it.
        error: why it could not be computed; the figures are None then.
    """

    model: str
    batch: int
    seconds: float
    cold_s: float | None = None
    first_s: float | None = None
    steady_s: float | None = None
    error: str | None = None

    @property
    def ratio(self) -> float | None:
        """First to steady; about 1 where nothing is compiled any more."""
        if self.first_s is None or not self.steady_s:
            return None
        return self.first_s / self.steady_s

    @property
    def effective_ratio(self) -> float | None:
        """`ratio`, but 1 where the difference is too small to be a kernel's."""
        if self.first_s is None or self.steady_s is None or self.first_s - self.steady_s > _SLACK_S:
            return self.ratio
        return 1.0

    def warm(self, max_ratio: float = MAX_RATIO) -> bool:
        """Whether the first request takes about as long as later ones."""
        ratio = self.effective_ratio
        return ratio is not None and ratio <= max_ratio

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        ratio = self.ratio
        return {**asdict(self), "ratio": None if ratio is None else round(ratio, 3)}


@dataclass(frozen=True, slots=True)
class PrewarmReport:
    """What was computed, and what it cost.

    Attributes:
        rows: every shape, in the order in which they were computed.
        skipped: shapes for which no time was left.
        wall_s: everything together.
        max_ratio: what counts as warm.
        compiled: what lies in the cache now; None where nobody looked.
        added: files that the cache got since it was last sealed; None where it never was.
        measured: whether more than the first round of each shape was asked for.
    """

    rows: tuple[Row, ...]
    skipped: int
    wall_s: float
    max_ratio: float = MAX_RATIO
    compiled: Compiled | None = None
    added: tuple[str, ...] | None = None
    measured: bool = True

    @property
    def computed(self) -> bool:
        """Whether every shape could be computed."""
        return not self.skipped and all(row.error is None for row in self.rows)

    @property
    def warm(self) -> bool | None:
        """Whether, besides, no first request takes longer than later ones; None where nobody looked."""
        if not self.measured:
            return None
        return self.computed and all(row.warm(self.max_ratio) for row in self.rows)

    @property
    def highest_ratio(self) -> float | None:
        """Of all rows; one whose first round is later by less than the slack counts as 1."""
        return max(
            (row.effective_ratio for row in self.rows if row.effective_ratio is not None), default=None
        )

    @property
    def summary(self) -> str:
        """One line."""
        failed = [
            f"{row.model} {row.batch} x {row.seconds:g} s: {row.error}" for row in self.rows if row.error
        ]
        if failed:
            return "; ".join(failed[:3]) + (f"; and {len(failed) - 3} more" if len(failed) > 3 else "")
        cold = sum(row.cold_s or 0 for row in self.rows)
        shapes = f"{len(self.rows)} sizes, {cold:.1f} s cold"
        late: list[Row] = []
        if self.measured:
            warm = sum(row.steady_s or 0 for row in self.rows)
            late = [row for row in self.rows if not row.warm(self.max_ratio)]
            highest = self.highest_ratio
            ratio = f"first/steady {highest:.2f} at most" if highest else "nothing to compute"
            shapes += f", {warm:.1f} s warm; {ratio}"
        if late:
            names = ", ".join(f"{row.model} {row.batch} x {row.seconds:g} s" for row in late[:3])
            shapes += f"; slower at first: {names}"
        if self.skipped:
            shapes += f"; {self.skipped} left out for want of time"
        if self.added:
            shapes += f"; {len(self.added)} files were compiled since the cache was sealed"
        return shapes

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "warm": self.warm,
            "computed": self.computed,
            "summary": self.summary,
            "max_ratio": self.max_ratio,
            "highest_ratio": None if self.highest_ratio is None else round(self.highest_ratio, 3),
            "seconds": round(self.wall_s, 2),
            "skipped": self.skipped,
            "cache": None if self.compiled is None else self.compiled.to_dict(),
            "added": None if self.added is None else list(self.added),
            "rows": [row.to_dict() for row in self.rows],
        }


Round = Callable[[ServedModel, Shape], float]
"""Computes a shape once and tells how many seconds it took; raises `SpeechError`."""


def prewarm(
    models: Sequence[ServedModel],
    work: Round,
    *,
    max_ratio: float = MAX_RATIO,
    limit_s: float = LIMIT_S,
    measure: bool = True,
    progress: ProgressReporter | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> PrewarmReport:
    """Compute every shape of every model, first all of them cold, then each until it is steady.

    Args:
        models: the server's.
        work: computes one shape.
        max_ratio: of the first to later rounds.
        limit_s: no new shape is begun after this many seconds.
        measure: whether each is computed again until it is steady.
        progress: one step a shape and pass.
        clock: seconds; a test gives its own.
    """
    shapes = [(model, shape) for model in models for shape in shapes_of(model)]
    task = (progress or SilentProgress()).task("Prewarming", total=(1 + measure) * len(shapes))
    began, done, skipped = clock(), 0, 0
    cold: list[tuple[ServedModel, Shape, float | str]] = []
    for model, shape in shapes:
        if clock() - began > limit_s:
            skipped = len(shapes) - len(cold)
            break
        task.update(
            completed=done, description=f"Prewarming {model.name} {shape.batch} x {shape.seconds:g} s"
        )
        cold.append((model, shape, _once(work, model, shape)))
        done += 1
    rows = []
    for model, shape, cold_s in cold:
        if isinstance(cold_s, str):
            row = Row(model.name, shape.batch, shape.seconds, error=cold_s)
        elif not measure:
            row = Row(model.name, shape.batch, shape.seconds, cold_s)
        else:
            task.update(
                completed=done, description=f"Measuring {model.name} {shape.batch} x {shape.seconds:g} s"
            )
            row = _measured(work, model, shape, cold_s, max_ratio)
        rows.append(row)
        done += measure
    task.finish("Prewarmed")
    return PrewarmReport(tuple(rows), skipped, clock() - began, max_ratio, measured=measure)


def _once(work: Round, model: ServedModel, shape: Shape) -> float | str:
    try:
        return work(model, shape)
    except OverloadedError as error:
        return f"no room for so many at once: {error.message}"
    except SpeechError as error:
        return error.message


def _measured(work: Round, model: ServedModel, shape: Shape, cold_s: float, max_ratio: float) -> Row:
    row = Row(model.name, shape.batch, shape.seconds, cold_s)
    for _ in range(_TRIES):
        times: list[float] = []
        for _ in range(1 + _STEADY):
            took = _once(work, model, shape)
            if isinstance(took, str):
                return Row(model.name, shape.batch, shape.seconds, cold_s, error=took)
            times.append(took)
        first, *later = times
        row = Row(model.name, shape.batch, shape.seconds, cold_s, first, statistics.median(later))
        if row.warm(max_ratio):
            break
    return row
