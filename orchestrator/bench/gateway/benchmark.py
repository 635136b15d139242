"""The same live streams straight to Triton and through the gateway: what the gateway costs and adds."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from orchestrator.bench.gateway.load import RivaLoad
from orchestrator.bench.gateway.process import gateway_process
from orchestrator.bench.report import Report, Row, versions
from orchestrator.bench.streams.figures import ChunkTimes, Figures, figures
from orchestrator.bench.streams.load import Load, shared_out
from orchestrator.bench.streams.processes import Processes, client_processes
from orchestrator.bench.streams.runs import ramp
from orchestrator.bench.streams.watch import Usage, watching
from orchestrator.client.stream.codec import Pcm16
from orchestrator.progress import ProgressReporter

PACKAGES: Final = ("grpcio", "protobuf", "uvicorn")
LIMIT_MS: Final = 10.0
"""The highest p95 that the gateway may add."""
WARM_UP_S: Final = 2.0
_SEQUENCES: Final = 2**40


@dataclass(frozen=True, slots=True)
class Upstream:
    """What the gateway is in front of.

    Attributes:
        name: for the report.
        url: ``host:port`` of its gRPC.
        model: the streaming model.
        chunk_ms: audio in a chunk.
        max_streams: how many streams it takes.
    """

    name: str
    url: str
    model: str
    chunk_ms: int
    max_streams: int


def run(
    upstream: Upstream,
    samples: Pcm16,
    *,
    streams: Sequence[int],
    workers: Sequence[int],
    seconds: float,
    processes: int,
    progress: ProgressReporter,
    command: str,
) -> Report:
    """Measure each number of ``streams`` without a gateway, then with gateways of ``workers`` processes.

    Args:
        upstream: the server.
        samples: what all streams say, int16 ``[n]`` at 16 kHz.
        streams: numbers of streams.
        workers: numbers of gateway processes.
        seconds: length of each run, with all streams under way.
        processes: client processes.
        progress: where runs are reported.
        command: what measures it again.

    Raises:
        ServerUnavailableError: the server or a client is gone.
        ServerStartError: a gateway does not come up.
    """
    rows: list[Row] = []
    alone: dict[int, Figures] = {}
    task = progress.task("Live streams", float(len(streams) * (1 + len(workers))))
    with client_processes(processes) as clients:
        for number in streams:
            load = _load(Load, upstream, upstream.url, samples, number, seconds)
            alone[number], usage = _measured(clients, load, seconds, None)
            rows.append(_row("direct", None, alone[number], usage, load))
            task.update(completed=float(len(rows)))
        for count in workers:
            with gateway_process(
                upstream.url, workers=count, max_streams=2 * max(streams) + count
            ) as gateway:
                warm = _load(RivaLoad, upstream, gateway.url, samples, 2 * count, WARM_UP_S)
                _measured(clients, warm, WARM_UP_S, None)
                for number in streams:
                    load = _load(RivaLoad, upstream, gateway.url, samples, number, seconds)
                    limit_ms = round(LIMIT_MS + (alone[number].p95_second_half or 0.0))
                    found, usage = _measured(clients, load, seconds, gateway.pid, limit_ms)
                    rows.append(_row("gateway", count, found, usage, load, alone[number]))
                    task.update(completed=float(len(rows)))
    task.finish(f"{len(rows)} runs")
    return Report(
        title=f"The gateway before {upstream.name}: live streams, chunks of {upstream.chunk_ms} ms",
        command=command,
        rows=rows,
        notes=(
            f"{seconds:g} s with all streams, {processes} client processes on the same machine.",
            "p50, p95, p99: from sending a chunk to its answer; added_p95: over the same streams without the "
            "gateway; cpu_ms: the gateway's processor time for a chunk and its answer; "
            "streams_per_core: chunk / cpu_ms.",
            f"counts: no errors, no growing lag, and at most {LIMIT_MS:g} ms added to the p95.",
        ),
        versions=versions(PACKAGES),
    )


def _load(
    kind: type[Load], upstream: Upstream, url: str, samples: Pcm16, streams: int, seconds: float
) -> Load:
    """The load of all processes as one; `_measured` shares it out."""
    ramp_s = ramp(streams, upstream.chunk_ms)
    return kind(
        url=url,
        model=upstream.model,
        streams=tuple(range(streams)),
        total=streams,
        first_sequence=1 + secrets.randbelow(2**22) * _SEQUENCES,
        chunk_ms=upstream.chunk_ms,
        ramp_s=ramp_s,
        seconds=ramp_s + seconds,
        samples=samples,
    )


def _measured(
    clients: Processes, load: Load, seconds: float, pid: int | None, limit_ms: float = float("inf")
) -> tuple[Figures, Usage | None]:
    loads = [replace(load, streams=share) for share in shared_out(load.total, len(clients))]
    usage = None
    if pid is None:
        outcomes = clients.run(loads)
    else:
        with watching(pid) as usage:
            outcomes = clients.run(loads)
    errors: Counter[str] = Counter()
    for outcome in outcomes:
        errors += outcome.errors
    found = figures(
        ChunkTimes.joined([outcome.times for outcome in outcomes]),
        errors,
        streams=load.total,
        chunk_ms=load.chunk_ms,
        limit_ms=limit_ms,
        begin_s=load.ramp_s,
        end_s=load.ramp_s + seconds,
    )
    return found, usage


def _row(
    path: str,
    workers: int | None,
    found: Figures,
    usage: Usage | None,
    load: Load,
    alone: Figures | None = None,
) -> Row:
    chunks = load.total * (load.seconds - load.ramp_s / 2) / (load.chunk_ms / 1000)
    spent_s = None if usage is None else usage.server_cpu_s + usage.models_cpu_s
    cpu_ms = None if spent_s is None else spent_s * 1000 / max(chunks, 1)
    added = (
        None
        if alone is None or alone.p95 is None or found.p95 is None
        else _rounded(found.p95 - alone.p95, 1)
    )
    return {
        "path": path,
        "workers": workers,
        "streams": found.streams,
        "p50_ms": _rounded(found.p50, 1),
        "p95_ms": _rounded(found.p95, 1),
        "p99_ms": _rounded(found.p99, 1),
        "added_p95_ms": added,
        "lag_p95_ms": _rounded(found.lag_p95, 1),
        "cpu_ms": _rounded(cpu_ms, 3),
        "streams_per_core": None if not cpu_ms else round(load.chunk_ms / cpu_ms),
        "resident_mib": None if usage is None else round(usage.resident_mib),
        "counts": None if alone is None else (found.fault or "yes"),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
