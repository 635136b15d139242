"""A gateway whose places are all taken, and a crowd that asks for more: what those let in notice of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import grpc
import grpc.aio
import numpy as np

from orchestrator.bench.gateway.load import RivaClients, RivaLoad, method
from orchestrator.bench.gateway.process import gateway_process
from orchestrator.bench.gateway.stub import MODEL, stub_server
from orchestrator.bench.report import Report, Row, versions
from orchestrator.bench.streams.figures import ChunkTimes, figures, percentile
from orchestrator.bench.streams.load import Load, Outcome
from orchestrator.bench.streams.processes import Processes, client_processes
from orchestrator.bench.streams.runs import ramp
from orchestrator.client.stream.codec import Pcm16
from orchestrator.progress import ProgressReporter

CHUNK_MS: Final = 160
PACKAGES: Final = ("grpcio", "protobuf")
_WARM_UP_S: Final = 2.0
_LET_IN: Final = "let in"
_PATIENCE_S: Final = 5.0
"""Who is not refused within this has a place."""
_END_S: Final = 1.0
"""Before the streams end, and leave their places, nobody comes any more."""


@dataclass(frozen=True, slots=True)
class CrowdLoad(RivaLoad):
    """Callers that come when every place is taken.

    Attributes:
        calls_per_s: how many begin in a second, from the end of the ramp on.
    """

    calls_per_s: float = 1.0

    def clients(self) -> Crowd:
        """See `Load.clients`."""
        return Crowd(self)


class Crowd(RivaClients):
    """One process's callers; `Outcome.times` are those of refusals."""

    def __init__(self, load: CrowdLoad) -> None:
        super().__init__(load)
        self._calls_per_s = load.calls_per_s

    async def run(self, start: float) -> Outcome:
        """Call again and again; ``start`` is on the clock of `time.monotonic`."""
        load = self._load
        count = int((load.seconds - _END_S - load.ramp_s) * self._calls_per_s)
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                due = start + load.ramp_s + number / self._calls_per_s
                group.create_task(self._ask(due, self._channels[number % len(self._channels)]))
        for channel in self._channels:
            await channel.close()
        table = np.array(self._rows, np.float64).reshape(-1, 3) - start
        self._outcome.times = ChunkTimes(*table.T.copy())
        return self._outcome

    async def _ask(self, due: float, channel: grpc.aio.Channel) -> None:
        await asyncio.sleep(due - time.monotonic())
        sent = time.monotonic()
        call = method(channel)()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                # Nothing is sent: grpc.aio forgets the status of a call that ends while it writes.
                await call.read()
            code = _LET_IN
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        except TimeoutError:
            code = _LET_IN
        call.cancel()
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED.name:
            self._rows.append((due, sent, time.monotonic()))
        else:
            self._outcome.errors[code] += 1


def run(
    samples: Pcm16,
    *,
    streams: int,
    crowds: Sequence[float],
    seconds: float,
    processes: int,
    progress: ProgressReporter,
) -> Report:
    """Fill a gateway in front of a server without an engine, and measure without and with crowds.

    Args:
        samples: what all streams say, int16 ``[n]`` at 16 kHz.
        streams: places, all of which are taken.
        crowds: calls a second by those who come too late; a run for each.
        seconds: length of each run, with all streams under way.
        processes: client processes of the streams; each crowd has one of its own.
        progress: where runs are reported.

    Raises:
        ServerUnavailableError: a server or a client is gone.
        ServerStartError: the gateway does not come up.
    """
    rows: list[Row] = []
    rates = (0.0, *crowds)
    task = progress.task("Crowds", float(len(rates)))
    with (
        stub_server(CHUNK_MS, streams) as upstream,
        gateway_process(upstream, workers=1, max_streams=streams) as gateway,
        client_processes(processes + 1) as clients,
    ):
        ramp_s = ramp(streams, CHUNK_MS)
        load = RivaLoad(
            url=gateway.url,
            model=MODEL,
            streams=tuple(range(streams)),
            total=streams,
            first_sequence=1,
            chunk_ms=CHUNK_MS,
            ramp_s=ramp_s,
            seconds=ramp_s + seconds,
            samples=samples,
        )
        clients.run(_shares(replace(load, seconds=ramp_s + _WARM_UP_S), processes))
        for rate in rates:
            rows.append(_measured(clients, load, rate, processes))
            task.update(completed=float(len(rows)))
    task.finish(f"{len(rows)} runs")
    return Report(
        title=f"A gateway with {streams} places, all taken, and a crowd",
        command=command_of(streams, crowds, seconds),
        rows=rows,
        notes=(
            f"{seconds:g} s with all streams, chunks of {CHUNK_MS} ms, a server without an engine, "
            f"{processes + 1} client processes on the same machine.",
            "p50 to highest: from sending a chunk of a stream that was let in to its answer; refused: calls "
            "that got RESOURCE_EXHAUSTED, and how long they waited for it.",
        ),
        versions=versions(PACKAGES),
    )


def _shares(load: Load, processes: int) -> list[Load]:
    return [replace(load, streams=load.streams[first::processes]) for first in range(processes)]


def _crowd(load: RivaLoad, rate: float) -> CrowdLoad:
    return CrowdLoad(
        url=load.url,
        model=load.model,
        streams=(0,),
        total=1,
        first_sequence=1,
        chunk_ms=load.chunk_ms,
        ramp_s=load.ramp_s,
        seconds=load.seconds,
        samples=load.samples,
        calls_per_s=rate,
    )


def _measured(clients: Processes, load: RivaLoad, rate: float, processes: int) -> Row:
    loads = _shares(load, processes)
    if rate:
        loads.append(_crowd(load, rate))
    outcomes = clients.run(loads)
    admitted = outcomes[:processes]
    errors: Counter[str] = Counter()
    for outcome in outcomes:
        errors += outcome.errors
    found = figures(
        ChunkTimes.joined([outcome.times for outcome in admitted]),
        errors,
        streams=load.total,
        chunk_ms=load.chunk_ms,
        limit_ms=float("inf"),
        begin_s=load.ramp_s,
        end_s=load.seconds,
    )
    refusals = outcomes[processes].times if rate else ChunkTimes.joined([])
    return {
        "calls_per_s": rate,
        "streams": found.streams,
        "p50_ms": _rounded(found.p50),
        "p95_ms": _rounded(found.p95),
        "p99_ms": _rounded(found.p99),
        "highest_ms": _rounded(found.highest),
        "refused": int(refusals.due.size),
        "refusal_p50_ms": _rounded(percentile(refusals.latency_ms, 50)),
        "refusal_p95_ms": _rounded(percentile(refusals.latency_ms, 95)),
        "counts": found.fault or "yes",
    }


def command_of(streams: int, crowds: Sequence[float], seconds: float) -> str:
    """The command line that asks for the same."""
    rates = ",".join(f"{rate:g}" for rate in crowds)
    return f"spark-speech bench overload --streams {streams} --crowds {rates} --seconds {seconds:g}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
