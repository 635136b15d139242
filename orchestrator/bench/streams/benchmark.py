"""The benchmark: the numbers that were asked for, the search for the highest, and clients that vanish."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

from orchestrator.bench.report import Report, Row, versions
from orchestrator.bench.streams.abort import forgotten, vanish
from orchestrator.bench.streams.processes import client_processes
from orchestrator.bench.streams.runs import Run, Runner
from orchestrator.bench.streams.search import tries
from orchestrator.bench.streams.server import Target
from orchestrator.bench.streams.watch import resident_mib
from orchestrator.client.stream.codec import Pcm16
from orchestrator.errors import OverloadedError
from orchestrator.progress import ProgressReporter

PACKAGES: Final = ("grpcio", "torch", "tritonclient")
WARM_UP_S: Final = 3.0
SEARCH_FIRST: Final = 64
SEARCH_SHARE: Final = 0.03
"""The highest number is known to 3 percent: runs of one number differ by about as much."""


def default_limit_ms(chunk_ms: int) -> float:
    """The highest p95 latency that counts, unless said otherwise: 100 ms at 160 ms, 500 ms at 960 ms."""
    return 100 + (chunk_ms - 160) / 2


def run(
    target: Target,
    samples: Pcm16,
    *,
    streams: Sequence[int],
    seconds: float,
    limit_ms: float,
    search_s: float | None,
    processes: int,
    progress: ProgressReporter,
    command: str,
) -> Report:
    """Measure ``target`` with each number of ``streams``, then search for the highest that counts.

    Args:
        target: the server.
        samples: what all streams say, int16 ``[n]`` at 16 kHz.
        streams: numbers of streams; those over ``target.max_streams`` fail.
        seconds: length of each run.
        limit_ms: the highest p95 of the second half of a run that counts.
        search_s: how long the search may begin new runs; None: no search.
        processes: client processes.
        progress: where runs are reported.
        command: what measures it again.

    Raises:
        ServerUnavailableError: the server or a client is gone.
    """
    done: dict[int, Run] = {}
    with client_processes(processes) as clients:
        runner = Runner(target, clients, samples, seconds=seconds, limit_ms=limit_ms)
        task = progress.task("Warming up")
        runner.run(min(2, target.max_streams), seconds=WARM_UP_S)

        def passes(number: int) -> bool:
            if number not in done:
                task.update(description=f"{number} streams for {seconds:g} s")
                done[number] = runner.run(number)
            return done[number].figures.fault is None

        for number in streams:
            passes(number)
        if search_s is not None:
            end = time.monotonic() + search_s
            good = [number for number, run in done.items() if run.figures.fault is None]
            first = max(good, default=min(done, default=SEARCH_FIRST))
            list(
                tries(
                    passes,
                    first=first,
                    most=target.max_streams,
                    share=SEARCH_SHARE,
                    in_time=lambda: time.monotonic() < end,
                )
            )
        task.finish(f"{len(done)} runs")
    return Report(
        title=f"{target.model}: live streams, chunks of {target.chunk_ms} ms",
        command=command,
        rows=[done[number].row for number in sorted(done)],
        notes=_notes(target, done, limit_ms, seconds, processes),
        versions=versions(PACKAGES),
    )


def _notes(
    target: Target, done: dict[int, Run], limit_ms: float, seconds: float, processes: int
) -> tuple[str, ...]:
    best = max((number for number, run in done.items() if run.figures.fault is None), default=0)
    bad = min((number for number in done if number > best), default=None)
    reached = f"Highest number that counts: {best}" + (
        f" ({bad} does not)."
        if bad is not None
        else ", the most that the server takes."
        if best == target.max_streams
        else "."
    )
    faults = {number: done[number].figures.fault for number in sorted(done)}
    said = {text for run in done.values() for text in run.messages.values() if text}
    return (
        reached,
        *(f"{number} streams: {fault}." for number, fault in faults.items() if fault is not None),
        f"A run counts with no errors, p95 <= {limit_ms:g} ms in its second half, and no growing lag; "
        f"{seconds:g} s with all streams, {processes} client processes on the same machine.",
        "p50 ... max: from sending a chunk to its answer; lag: from the chunk's last sample; late: how late "
        "it was sent; batch, step_ms: chunks in a call of the engine and its time; *_cores: cores busy.",
        *(f"The server said: {text}" for text in sorted(said)[:5]),
    )


def abort(target: Target, samples: Pcm16, *, count: int, progress: ProgressReporter, command: str) -> Report:
    """Begin ``count`` streams whose clients vanish, as many at a time as the server takes.

    The first rows' worth of streams warms the server up; memory is compared with what it is after them.

    Raises:
        OverloadedError: the server takes no new streams although the old ones' time is over.
        ServerUnavailableError: the server is gone.
    """
    wave = min(target.max_streams, max(1, count // 2))
    task = progress.task("Vanishing clients", float(count))
    fresh = resident_mib(target.pid)
    outcomes: Counter[str] = Counter()
    before = fresh
    stayed = 0.0
    waited: list[float] = []
    while outcomes["began"] < count:
        found = vanish(target, samples, min(wave, count - outcomes["began"]))
        if not found["began"]:
            raise OverloadedError(
                f"no stream began: {', '.join(f'{n} x {kind}' for kind, n in found.items())}",
                host=target.url,
                model=target.model,
            )
        first = not outcomes
        outcomes += found
        gone_s = forgotten(target, samples)
        if gone_s is None:
            stayed = target.counters().get("speech_streams_open", 0.0)
            break
        waited.append(gone_s)
        if first:
            before = resident_mib(target.pid)
        task.update(completed=float(outcomes["began"]))
    task.finish(f"{outcomes['began']} streams vanished")
    after = resident_mib(target.pid)
    counters = target.counters()
    row: Row = {
        "began": outcomes["began"],
        "refused": outcomes.total() - outcomes["began"],
        "state_left": int(stayed),
        "expired": int(counters.get("speech_streams_expired_total", 0)),
        "gone_after_s": round(max(waited), 1) if waited else None,
        "resident_fresh_mib": round(fresh),
        "resident_before_mib": round(before),
        "resident_after_mib": round(after),
        "growth": round(after / before - 1, 4),
    }
    return Report(
        title=f"{target.model}: clients that vanish",
        command=command,
        rows=[row],
        notes=(
            "A third fall silent, a third cancel a request under way, a third close the connection with one "
            f"under way, after one to three chunks, {wave} at a time; none sends an end.",
            "before: after the first of those rounds; growth: after over before, minus 1; "
            f"streams are forgotten after {target.idle_timeout_s:g} s.",
        ),
        versions=versions(PACKAGES),
    )
