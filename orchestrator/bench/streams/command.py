"""From what was asked for to a report: the recording, the release, the server, the benchmark."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

import orchestrator
from orchestrator import audio
from orchestrator.bench.report import Report
from orchestrator.bench.streams import benchmark, server
from orchestrator.client.stream.codec import Pcm16
from orchestrator.errors import ConfigurationError
from orchestrator.progress import ProgressReporter
from orchestrator.settings import Settings, StreamingSettings

SEARCH_MOST: Final = 1024
"""Streams that the server takes where a search is not told how far it may go."""
ABORT_MOST: Final = 256
"""Streams that it takes where clients vanish."""
IDLE_S: Final = 10.0
"""How soon streams without their end are forgotten: those that failed must be gone before the next run."""
ABORT_IDLE_S: Final = 2.0
"""The same where clients vanish on purpose; else it would take hours."""
_CORES_PER_PROCESS: Final = 4
_FULL_SCALE: Final = 32_767


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asked for; None takes the settings' value or the benchmark's own.

    Attributes:
        streams: numbers of streams to run.
        search_s: how long a search may begin runs; None: no search.
        abort: streams whose clients vanish, in place of the above.
        seconds: length of a run.
        limit_ms: the highest p95 latency that counts.
        source: the weights, see `orchestrator.repository.sources`.
        preset, instances, max_streams: see `StreamingSettings`.
        device: ``auto``, ``cpu`` or ``cuda``.
        processes: client processes.
        recording: what the streams say.
    """

    streams: tuple[int, ...] = ()
    search_s: float | None = None
    abort: int | None = None
    seconds: float = 20.0
    limit_ms: float | None = None
    source: str = "embedded"
    preset: Literal["low_latency", "balanced", "throughput"] | None = None
    instances: int | None = None
    max_streams: int | None = None
    device: str = "auto"
    processes: int | None = None
    recording: Path | None = None


def run(settings: Settings, asked: Asked, *, progress: ProgressReporter) -> Report:
    """Build, serve and measure.

    Raises:
        ConfigurationError: what was asked for makes no sense.
        AudioError: the recording cannot be used.
        RepositoryError, RuntimeFailure: there is no release or no server.
        ServiceError: the server failed.
    """
    if asked.abort is not None and (asked.streams or asked.search_s is not None):
        raise ConfigurationError(
            "vanishing clients and timed ones need servers of their own",
            fix="use --abort without --streams and --search",
        )
    samples = spoken(asked.recording)
    streaming = streaming_settings(settings.streaming, asked)
    release = server.build(settings, streaming, source=asked.source, device=asked.device, progress=progress)
    with server.serving(settings, release, progress) as target:
        if asked.abort is not None:
            return benchmark.abort(
                target, samples, count=asked.abort, progress=progress, command=command_of(asked)
            )
        limit_ms = asked.limit_ms or benchmark.default_limit_ms(target.chunk_ms)
        return benchmark.run(
            target,
            samples,
            streams=asked.streams,
            seconds=asked.seconds,
            limit_ms=limit_ms,
            search_s=asked.search_s,
            processes=asked.processes or max(1, len(os.sched_getaffinity(0)) // _CORES_PER_PROCESS),
            progress=progress,
            command=command_of(asked),
        )


def numbers_of(text: str) -> tuple[int, ...]:
    """``100,300,600`` as numbers.

    Raises:
        ConfigurationError: it is no list of numbers above 0.
    """
    try:
        numbers = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        numbers = (0,)
    if any(number < 1 for number in numbers):
        raise ConfigurationError(f"--streams {text!r} is no list of numbers", fix="write it as 100,300,600")
    return numbers


def streaming_settings(given: StreamingSettings, asked: Asked) -> StreamingSettings:
    """How the model is set up: the settings, with what was asked for in their place.

    Raises:
        ConfigurationError: more instances than streams.
    """
    instances = asked.instances or given.instances
    limits = [instances, *asked.streams]
    if asked.search_s is not None:
        limits.append(SEARCH_MOST)
    if asked.abort is not None:
        limits.append(min(ABORT_MOST, asked.abort))
    most = asked.max_streams or max(limits)
    if most < instances:
        raise ConfigurationError(
            f"{most} streams cannot be shared among {instances} instances", fix="raise --max-streams"
        )
    return given.model_copy(
        update={
            "preset": asked.preset or given.preset,
            "instances": instances,
            "max_streams": most,
            "idle_timeout_s": ABORT_IDLE_S if asked.abort is not None else IDLE_S,
        }
    )


def spoken(recording: Path | None) -> Pcm16:
    """A recording, mixed to one channel, or the dialogue in this package; int16 ``[n]`` at 16 kHz.

    Raises:
        AudioError: the recording cannot be used.
    """
    packaged = Path(orchestrator.__file__).parent / "training" / "checkpoint" / "dialogue.flac"
    samples = audio.decode(recording or packaged).samples[0]
    return np.asarray(np.round(samples.clip(-1, 1) * _FULL_SCALE), np.int16)


def command_of(asked: Asked) -> str:
    """The command line that asks for the same, without paths of this machine."""
    words = ["spark-speech bench streams"]
    if asked.streams:
        words.append(f"--streams {','.join(map(str, asked.streams))}")
    if asked.search_s is not None:
        words.append(f"--search --search-minutes {asked.search_s / 60:g}")
    if asked.abort is not None:
        words.append(f"--abort {asked.abort}")
    else:
        words.append(f"--seconds {asked.seconds:g}")
    if asked.source != "embedded":
        words.append("--folder FOLDER")
    if asked.recording is not None:
        words.append("--recording FILE")
    for name, value in (
        ("limit", asked.limit_ms),
        ("preset", asked.preset),
        ("instances", asked.instances),
        ("max-streams", asked.max_streams),
        ("device", asked.device),
        ("clients", asked.processes),
    ):
        if value is not None:
            words.append(f"--{name} {value:g}" if isinstance(value, float) else f"--{name} {value}")
    return " ".join(words)
