"""The audit of everything that a folder, an image or a process holds, and its summary."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.coldstart.compatibility import JitPolicy, Outcome, Platform
from orchestrator.coldstart.cuda_cache import policy_violations
from orchestrator.coldstart.cuda_versions import cuda_of_gpu, driver_of_cuda
from orchestrator.coldstart.elf import require
from orchestrator.coldstart.gpu_target import shown_version
from orchestrator.coldstart.kernel_sources import Candidate, Found
from orchestrator.coldstart.kernel_verdict import FileVerdict, judge
from orchestrator.coldstart.kernels import FileAudit, audit_file, audit_window
from orchestrator.coldstart.window import opened
from orchestrator.errors import AuditError
from orchestrator.progress import ProgressReporter, SilentProgress

WORKERS: Final = 2
"""Processes that read, where the machine has as many cores."""
_ALONE: Final = 64
"""So few files are read faster than other processes start."""
_BATCH: Final = 24
"""Files that a process is given at once."""
_SHOWN_OUTCOMES: Final = (Outcome.FAILS, Outcome.JIT, Outcome.NATIVE)


@dataclass(frozen=True, slots=True)
class KernelReport:
    """What an audit found.

    Attributes:
        source: what was audited.
        platform: what it was judged for.
        files: those with GPU code or problems: failing ones first, then by cost of compiling, then by name.
        notes: what holds for all of them: the environment, the driver, a claimed capability.
        problems: folders and files that could not be looked at.
        read: how many files were opened.
        read_bytes: their length together.
        seconds: how long it took.
    """

    source: str
    platform: Platform
    files: tuple[FileVerdict, ...]
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    read: int
    read_bytes: int
    seconds: float

    def count(self, outcome: Outcome) -> int:
        """Files that end so."""
        return sum(verdict.outcome is outcome for verdict in self.files)

    @property
    def jit_s(self) -> float:
        """A rough time to compile everything that is compiled, seconds on one core."""
        return sum(verdict.jit_s for verdict in self.files)

    @property
    def jit_bytes(self) -> int:
        """PTX that is compiled, bytes before compression."""
        return sum(verdict.jit_bytes for verdict in self.files)

    @property
    def runs(self) -> bool:
        """Whether no file fails."""
        return self.count(Outcome.FAILS) == 0 and not self.platform.gpu_is_too_new()

    @property
    def compiles_nothing(self) -> bool:
        """Whether all of it runs as it is."""
        return self.runs and self.count(Outcome.JIT) == 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        platform = self.platform
        return {
            "source": self.source,
            "target": str(platform.gpu),
            "driver": None if platform.driver is None else shown_version(platform.driver),
            "runtime": None if platform.runtime is None else shown_version(platform.runtime),
            "jit": {
                "forced": platform.jit.forced,
                "disabled": platform.jit.disabled,
                "cached": platform.jit.cached,
                "cache_path": platform.jit.cache_path,
                "eager": platform.jit.eager,
            },
            "runs": self.runs,
            "compiles_nothing": self.compiles_nothing,
            "counts": {str(outcome): self.count(outcome) for outcome in Outcome},
            "jit_bytes": self.jit_bytes,
            "jit_s": round(self.jit_s, 1),
            "notes": list(self.notes),
            "problems": list(self.problems),
            "read": self.read,
            "read_bytes": self.read_bytes,
            "seconds": round(self.seconds, 2),
            "files": [verdict.to_dict() for verdict in self.files],
        }


def audit(
    source: str,
    found: Found,
    platform: Platform,
    *,
    notes: Sequence[str] = (),
    workers: int | None = None,
    progress: ProgressReporter | None = None,
) -> KernelReport:
    """Read all candidates and judge them.

    Args:
        source: what to call the whole.
        found: what to read.
        platform: where it is to run.
        notes: what to tell with it.
        workers: processes that read; by default two, or one where there is one core or little to read.
        progress: where to say how far it is.

    Raises:
        MissingDependencyError: the library that reads ELF files is not installed.
        AuditError: a reading process was killed.
    """
    require()
    begun = time.monotonic()
    candidates = found.candidates
    if workers is None:
        workers = min(WORKERS, len(os.sched_getaffinity(0))) if len(candidates) > _ALONE else 1
    task = (progress or SilentProgress()).task("reading binaries", total=max(1, len(candidates)))
    files: list[FileVerdict] = []
    read_bytes = done = 0
    # Large files first, so that no process is left with one at the end.
    ordered = sorted(candidates, key=_size, reverse=True)
    batches = _batches(ordered, workers)
    try:
        for verdicts, size, count in _answers(batches, platform, workers):
            files += verdicts
            read_bytes += size
            done += count
            task.update(completed=done)
    except BrokenProcessPool as error:
        raise AuditError(
            f"a process that read {source} was killed",
            fix="look for memory pressure, or read less at once: name a folder below it",
        ) from error
    task.finish()
    return KernelReport(
        source=source,
        platform=platform,
        files=tuple(sorted(files, key=_order)),
        notes=tuple(notes),
        problems=tuple(found.problems),
        read=len(candidates),
        read_bytes=read_bytes,
        seconds=time.monotonic() - begun,
    )


def _order(verdict: FileVerdict) -> tuple[int, float, str]:
    rank = _SHOWN_OUTCOMES.index(verdict.outcome) if verdict.outcome is not None else len(_SHOWN_OUTCOMES)
    return rank, -verdict.jit_s, verdict.path


def _size(candidate: Candidate) -> int:
    if candidate.size is not None:
        return candidate.size
    try:
        return Path(candidate.path).stat().st_size
    except OSError:
        return 0


def _batches(ordered: Sequence[Candidate], workers: int) -> list[list[Candidate]]:
    """Each large file alone, then small ones together."""
    alone = min(len(ordered), 4 * workers)
    rest = ordered[alone:]
    return [
        *([one] for one in ordered[:alone]),
        *(list(rest[at : at + _BATCH]) for at in range(0, len(rest), _BATCH)),
    ]


_Answer = tuple[list[FileVerdict], int, int]


def _answers(batches: Sequence[Sequence[Candidate]], platform: Platform, workers: int) -> Any:
    if workers == 1:
        for batch in batches:
            yield read_batch(batch, platform)
        return
    # Not forked: the progress display has a thread.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting = [pool.submit(read_batch, batch, platform) for batch in batches]
        try:
            for future in as_completed(waiting):
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()


def read_batch(batch: Sequence[Candidate], platform: Platform) -> _Answer:
    """Verdicts on the files that have something to tell, bytes looked at, and how many files there were."""
    verdicts, size = [], 0
    for candidate in batch:
        found = _read(candidate)
        size += found.size
        if found.relevant:
            verdicts.append(judge(found, platform))
    return verdicts, size, len(batch)


def _read(candidate: Candidate) -> FileAudit:
    if candidate.size is None:
        return audit_file(candidate.path, candidate.shown)
    try:
        with opened(candidate.path) as window:
            return audit_window(window.part(candidate.start, candidate.size), candidate.shown)
    except OSError as error:
        return FileAudit(candidate.shown, 0, problems=(f"cannot be read: {error.strerror or error}",))


def environment_notes(environment: Mapping[str, str]) -> list[str]:
    """What a process's environment does to its cold start, one sentence each."""
    notes = policy_violations(environment)
    if JitPolicy.of(environment).disabled:
        notes.append("CUDA_DISABLE_PTX_JIT is on: what has only PTX does not run")
    return notes


def platform_notes(platform: Platform) -> list[str]:
    """What the driver's version does, one sentence each."""
    if not platform.gpu_is_too_new() or platform.driver is None:
        return []
    first = cuda_of_gpu(platform.gpu.capability)
    branch = None if first is None else driver_of_cuda(first)
    return [
        f"driver {platform.driver[0]} does not know {platform.gpu}: nothing runs on it before driver"
        f" {branch or 'of a later release'}"
    ]
