"""Every engine from every state: fresh processes, medians of their stages, compared with earlier runs."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator.bench.coldstart import history
from orchestrator.bench.coldstart.probe import STAGES, STEADY, Task
from orchestrator.bench.coldstart.states import CacheState, packages, prepare
from orchestrator.bench.fresh import stages_of
from orchestrator.bench.report import Report, Row, machine, shown, versions
from orchestrator.engines import spec
from orchestrator.errors import DiskFullError, ModelLoadError
from orchestrator.progress import ProgressReporter, SilentProgress
from orchestrator.runtime.demo import synthetic_dialogue

_PROBE: Final = "orchestrator.bench.coldstart.probe"
_SLOWER: Final = "slower"
Bars = list[tuple[str, Mapping[str, float]]]


def states_for(device: str) -> tuple[CacheState, ...]:
    """The states worth measuring: the switch for GPU code does nothing on a CPU."""
    return tuple(state for state in CacheState if device != "cpu" or state is not CacheState.FORCED)


def run(
    folders: Mapping[str, Path],
    *,
    device: str,
    repeats: int,
    seconds: float,
    cache: Path,
    kept: Path,
    command: str,
    options: Mapping[str, Any] | None = None,
    compare: Mapping[str, Mapping[str, Any]] | None = None,
    progress: ProgressReporter | None = None,
) -> tuple[Report, Bars]:
    """Measure.

    Args:
        folders: of each engine's files.
        device: a torch device.
        repeats: fresh processes for each engine and state; medians are told.
        seconds: length of the recording.
        cache: a folder for compiled code, emptied for cold starts: not a server's.
        kept: the file of earlier runs; this one is added.
        command: what measures it again.
        options: of the engines, beside their own defaults.
        compare: further options by a name; with each, every engine is started once more from warm memory,
            to set its steady time against theirs.
        progress: where to say how far it is.

    Returns:
        The table, and the stages of each row for the plot.

    An engine that does not start with CUDA_FORCE_PTX_JIT=1, as one without PTX cannot, is told as that: it is
    what the state is there to show.

    Raises:
        ModelLoadError: an engine did not start in another state.
        DiskFullError: the history cannot be written.
    """
    states = states_for(device)
    given = dict(options or {})
    others = {name: {**given, **more} for name, more in (compare or {}).items()}
    plan = [(state, "", given) for state in states]
    plan += [(CacheState.MEMORY, name, more) for name, more in others.items()]
    task = (progress or SilentProgress()).task("cold starts", total=len(folders) * len(plan) * repeats)
    earlier = history.read(kept)
    rows: list[Row] = []
    bars: Bars = []
    starts: list[history.Start] = []
    failures: list[str] = []
    done = 0
    for engine, folder in folders.items():
        weights = f"{_size(folder)} bytes"
        for state, name, chosen in plan:
            label = f"{state}, {name}" if name else str(state)
            runs = []
            try:
                for _ in range(repeats):
                    runs.append(_one(engine, folder, state, device, seconds, cache, chosen))
                    done += 1
                    task.update(completed=done)
            except ModelLoadError as error:
                if state is not CacheState.FORCED:
                    raise
                done += repeats - len(runs)
                task.update(completed=done)
                rows.append(_stopped(engine, label))
                failures.append(f"{engine}, {label}: {error.message}")
                continue
            stages = {stage: statistics.median(one[stage] for one in runs) for stage in (*STAGES, STEADY)}
            total = statistics.median(sum(one[stage] for stage in STAGES) for one in runs)
            same = f"{label}{_described(chosen)}, {seconds:g} s, {weights}"
            start = history.Start(engine, device, same, machine(), total)
            starts.append(start)
            rows.append(_row(start, label, stages, history.earlier_s(start, earlier)))
            bars.append((f"{engine}, {label}", stages))
    task.finish()
    try:
        history.append(kept, starts)
    except OSError as error:
        raise DiskFullError(
            f"the history cannot be written: {error.strerror}", fix="look at the disk", path=kept
        ) from error
    packaged = {package for engine in folders for package in spec(engine).distributions}
    report = Report(
        title=f"From the start of a process to its first result, {device}",
        command=command,
        rows=rows,
        notes=(*_notes(rows, repeats, seconds), *failures),
        versions=versions(sorted(packaged)),
    )
    return report, bars


def _one(
    engine: str,
    folder: Path,
    state: CacheState,
    device: str,
    seconds: float,
    cache: Path,
    options: Mapping[str, Any],
) -> dict[str, float]:
    environment = prepare(state, cache / engine, (folder, *packages()))
    task = Task(
        started=0.0,
        engine=engine,
        folder=str(folder.absolute()),
        device=device,
        recording=str(synthetic_dialogue()),
        seconds=seconds,
        options=dict(options),
    )
    task["started"] = time.monotonic()
    return stages_of(_PROBE, task, environment, model=engine, folder=folder)


def _size(folder: Path) -> int:
    """Bytes of an engine's files: other weights of an engine are another thing to compare."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _described(options: Mapping[str, Any]) -> str:
    """Options as part of what is compared with earlier runs."""
    return " " + json.dumps(options, sort_keys=True) if options else ""


def _row(start: history.Start, caches: str, stages: Mapping[str, float], before_s: float | None) -> Row:
    regression = history.is_regression(start.total_s, before_s)
    return {
        "engine": start.engine,
        "caches": caches,
        **{f"{stage}_s": stages[stage] for stage in STAGES},
        "total_s": start.total_s,
        "steady_s": stages[STEADY],
        "before_s": before_s,
        "regression": _SLOWER if regression else "",
    }


def _stopped(engine: str, caches: str) -> Row:
    """The row of an engine that did not start."""
    figures = (*(f"{stage}_s" for stage in STAGES), "total_s", "steady_s", "before_s")
    return {"engine": engine, "caches": caches, **dict.fromkeys(figures), "regression": "does not start"}


def _notes(rows: Sequence[Row], repeats: int, seconds: float) -> tuple[str, ...]:
    notes = [
        f"Medians of {repeats} fresh processes each; {seconds:g} s of speech. total_s is from the start of"
        " the process to its first result, steady_s a later one. before_s: the median of earlier runs here.",
        "Files that other processes have mapped stay in memory: cold is then warmer than after a reboot.",
    ]
    notes += [
        f"Regression: {row['engine']}, {row['caches']}: {shown(row['total_s'])} s,"
        f" before {shown(row['before_s'])} s"
        for row in rows
        if row["regression"] == _SLOWER
    ]
    return tuple(notes)
