"""From what was asked for to a report: the server behind the gateway, and the benchmark."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from orchestrator.bench.gateway import benchmark
from orchestrator.bench.gateway.benchmark import Upstream
from orchestrator.bench.gateway.stub import MODEL, stub_server
from orchestrator.bench.report import Report
from orchestrator.bench.streams import server
from orchestrator.bench.streams.command import spoken
from orchestrator.progress import ProgressReporter
from orchestrator.settings import Settings

CHUNK_MS: Final = 160
_CORES_PER_PROCESS: Final = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asked for.

    Attributes:
        streams: numbers of streams to run.
        workers: numbers of gateway processes.
        seconds: length of a run.
        triton: a tritonserver with the embedded model behind the gateway, in place of one without an engine.
        processes: client processes; None: one for each four cores.
    """

    streams: tuple[int, ...]
    workers: tuple[int, ...] = (1,)
    seconds: float = 15.0
    triton: bool = False
    processes: int | None = None


def run(settings: Settings, asked: Asked, *, progress: ProgressReporter) -> Report:
    """Serve and measure.

    Raises:
        RepositoryError, RuntimeFailure: there is no release, no server or no gateway.
        ServiceError: the server failed.
    """
    processes = asked.processes or max(1, len(os.sched_getaffinity(0)) // _CORES_PER_PROCESS)
    with _upstream(settings, asked, progress) as upstream:
        return benchmark.run(
            upstream,
            spoken(None),
            streams=asked.streams,
            workers=asked.workers,
            seconds=asked.seconds,
            processes=processes,
            progress=progress,
            command=command_of(asked),
        )


@contextmanager
def _upstream(settings: Settings, asked: Asked, progress: ProgressReporter) -> Iterator[Upstream]:
    most = 2 * max(asked.streams) + max(asked.workers)
    if not asked.triton:
        with stub_server(CHUNK_MS, most) as url:
            yield Upstream("a server without an engine", url, MODEL, CHUNK_MS, most)
        return
    streaming = settings.streaming.model_copy(update={"max_streams": most})
    release = server.build(settings, streaming, source="embedded", device="auto", progress=progress)
    with server.serving(settings, release, progress) as target:
        yield Upstream("tritonserver", target.url, target.model, target.chunk_ms, target.max_streams)


def command_of(asked: Asked) -> str:
    """The command line that asks for the same."""
    words = [f"spark-speech bench gateway --streams {','.join(map(str, asked.streams))}"]
    words.append(f"--seconds {asked.seconds:g}")
    if asked.workers != (1,):
        words.append(f"--workers {','.join(map(str, asked.workers))}")
    if asked.triton:
        words.append("--triton")
    if asked.processes is not None:
        words.append(f"--clients {asked.processes}")
    return " ".join(words)
