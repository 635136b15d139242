"""One run of N real-time streams: the load, the watch over the server, and the row that comes of it."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tritonclient.grpc import service_pb2

from orchestrator.bench.report import Row
from orchestrator.bench.streams.abort import forgotten
from orchestrator.bench.streams.figures import ChunkTimes, Figures, figures
from orchestrator.bench.streams.load import Load, Outcome, shared_out
from orchestrator.bench.streams.processes import Processes
from orchestrator.bench.streams.server import Target
from orchestrator.bench.streams.watch import Gpu, Usage, watching
from orchestrator.client.stream.codec import Pcm16, decode

RAMP_STREAMS_PER_S: Final = 300
"""Streams begin no faster than this; all have begun before anything counts."""
_SEQUENCES: Final = 2**40


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        figures: what the chunks' times say.
        usage: what the server used.
        steps, step_s: calls of the engine and the time in them; None where the server does not tell.
        chunks: answers, from the first stream on.
        words_per_s: words in a sample of the streams, for each second of their audio.
        messages: what the server said to the first failure of each kind.
    """

    figures: Figures
    usage: Usage
    steps: float | None
    step_s: float | None
    chunks: int
    words_per_s: float
    messages: dict[str, str]

    @property
    def row(self) -> Row:
        """For the report."""
        found, usage = self.figures, self.usage
        wall_s = max(usage.wall_s, 1e-9)
        return {
            "streams": found.streams,
            "p50_ms": _rounded(found.p50),
            "p95_ms": _rounded(found.p95),
            "p99_ms": _rounded(found.p99),
            "max_ms": _rounded(found.highest),
            "p95_2nd_half_ms": _rounded(found.p95_second_half),
            "lag_p95_ms": _rounded(found.lag_p95),
            "lag_max_ms": _rounded(found.lag_highest),
            "late_p95_ms": _rounded(found.late_p95),
            "chunks": found.chunks,
            "errors": found.errors,
            "batch": None if not self.steps else _rounded(self.chunks / self.steps),
            "step_ms": None
            if not self.steps or self.step_s is None
            else _rounded(self.step_s / self.steps * 1e3),
            "words_s": _rounded(self.words_per_s),
            "gpu": None if usage.gpu_share is None else round(usage.gpu_share, 2),
            "gpu_mib": round(usage.gpu_memory_mib) if usage.gpu_shares else None,
            "server_cores": round(usage.server_cpu_s / wall_s, 2),
            "model_cores": round(usage.models_cpu_s / wall_s, 2),
            "resident_mib": round(usage.resident_mib),
            "counts": "no" if found.fault else "yes",
        }


class Runner:
    """Runs against one server, with one set of client processes."""

    def __init__(
        self, target: Target, processes: Processes, samples: Pcm16, *, seconds: float, limit_ms: float
    ) -> None:
        """Prepare.

        Args:
            target: the server.
            processes: the clients.
            samples: what all streams say, int16 ``[n]`` at 16 kHz.
            seconds: how long all streams are under way.
            limit_ms: see `figures`.
        """
        self._target = target
        self._processes = processes
        self._samples = samples
        self._seconds = seconds
        self._limit_ms = limit_ms
        self._gpu = Gpu.find()

    def run(self, streams: int, *, seconds: float | None = None) -> Run:
        """``streams`` real-time streams for ``seconds``.

        Raises:
            ServerUnavailableError: the server or a client process is gone.
        """
        target = self._target
        seconds = self._seconds if seconds is None else seconds
        ramp_s = ramp(streams, target.chunk_ms)
        # A number that no earlier run had: what an earlier run left behind must not be met again.
        first_sequence = 1 + secrets.randbelow(2**22) * _SEQUENCES
        loads = [
            Load(
                url=target.url,
                model=target.model,
                streams=share,
                total=streams,
                first_sequence=first_sequence,
                chunk_ms=target.chunk_ms,
                ramp_s=ramp_s,
                seconds=ramp_s + seconds,
                samples=self._samples,
            )
            for share in shared_out(streams, len(self._processes))
        ]
        before = target.counters()
        with watching(target.pid, self._gpu) as usage:
            outcomes = self._processes.run(loads)
        failed = any(outcome.errors for outcome in outcomes)
        # Streams that failed half-way would take the places of the next run's.
        if failed:
            forgotten(target, self._samples)
        return _judged(
            target, outcomes, usage, before, target.counters(), streams, ramp_s, seconds, self._limit_ms
        )


def ramp(streams: int, chunk_ms: int) -> float:
    """Seconds in which the streams begin: whole chunks, so that they are evenly spread over a chunk."""
    return math.ceil(streams / RAMP_STREAMS_PER_S / (chunk_ms / 1000)) * chunk_ms / 1000


def _judged(
    target: Target,
    outcomes: Sequence[Outcome],
    usage: Usage,
    before: dict[str, float],
    after: dict[str, float],
    streams: int,
    ramp_s: float,
    seconds: float,
    limit_ms: float,
) -> Run:
    times = ChunkTimes.joined([outcome.times for outcome in outcomes])
    errors: dict[str, int] = {}
    messages: dict[str, str] = {}
    for outcome in outcomes:
        for kind, count in outcome.errors.items():
            errors[kind] = errors.get(kind, 0) + count
        messages |= outcome.messages
    found = figures(
        times,
        errors,
        streams=streams,
        chunk_ms=target.chunk_ms,
        limit_ms=limit_ms,
        begin_s=ramp_s,
        end_s=ramp_s + seconds,
    )
    steps, step_s = (
        None if name not in after else after[name] - before.get(name, 0.0)
        for name in ("speech_stream_steps_total", "speech_stream_step_seconds_total")
    )
    return Run(
        figures=found,
        usage=usage,
        steps=steps,
        step_s=step_s,
        chunks=int(times.due.size),
        words_per_s=words_per_s(outcomes, target),
        messages=messages,
    )


def words_per_s(outcomes: Sequence[Outcome], target: Target) -> float:
    """Final words in the answers that were kept, for each second of the audio they are about.

    Raises:
        RemoteInferenceError: an answer does not follow the contract.
    """
    words = chunks = 0
    for outcome in outcomes:
        for answer in outcome.answers:
            response = service_pb2.ModelInferResponse.FromString(answer)
            update = decode(response, target.url)
            words += sum(len(segment.words) for segment in update.segments if segment.final)
        chunks += len(outcome.answers)
    return words / (chunks * target.chunk_ms / 1000) if chunks else 0.0


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
