"""From what was asked for to a report: weights, the engine here, servers, client processes."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from orchestrator.bench.report import Report, versions
from orchestrator.bench.throughput import benchmark, clips, nemo, server
from orchestrator.bench.throughput.benchmark import Measure
from orchestrator.bench.throughput.clients import client_processes
from orchestrator.bench.throughput.rows import Line
from orchestrator.bench.throughput.server import Setup
from orchestrator.engines import load
from orchestrator.errors import ConfigurationError
from orchestrator.progress import ProgressReporter
from orchestrator.repository import validate
from orchestrator.repository.config import Device
from orchestrator.settings import Settings

GPU_BATCHES: Final = (1, 8, 32, 64, 128)
CPU_BATCHES: Final = (1, 8)
_CORES_PER_CLIENT: Final = 4
_LONG_S: Final[dict[Device, float]] = {"cuda": 3600.0, "cpu": 60.0}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asked for; None: what suits the device.

    Attributes:
        weights: a ``.nemo`` file or a folder of weights; None: the checkpoint in this package.
        synthetic: random weights of this shape, in place of ``weights``.
        device: ``auto``, ``cpu`` or ``cuda``.
        batches: see `Measure`.
        clip_s, repeats, rounds, fill, long_s: see `Measure`.
        instances: numbers of processes to serve with, one server after the other.
        clients: client processes.
        noise: noise in place of recorded speech; always for ``synthetic``.
        nemo: NeMo in this process as well.
        options: for the engine, a JSON object.
    """

    weights: Path | None = None
    synthetic: Literal["0.6b", "tiny"] | None = None
    device: str = "auto"
    batches: tuple[int, ...] = ()
    clip_s: float = 20.0
    repeats: int = 5
    rounds: int = 3
    fill: int = 10
    long_s: float | None = None
    instances: tuple[int, ...] = (1,)
    clients: int | None = None
    noise: bool = False
    nemo: bool = False
    options: str = "{}"


def run(settings: Settings, asked: Asked, *, progress: ProgressReporter) -> Report:
    """Measure.

    Raises:
        ConfigurationError: what was asked for makes no sense.
        ModelLoadError, MissingDependencyError: the engine cannot be loaded.
        RuntimeFailure: there is no server.
        ServiceError: the server failed.
    """
    device = validate.device_named(asked.device)
    options = _options(asked.options)
    _check(asked)
    batches = asked.batches or (GPU_BATCHES if device == "cuda" else CPU_BATCHES)
    measure = Measure(
        batches=tuple(sorted(set(batches))),
        clip_s=asked.clip_s,
        repeats=asked.repeats,
        rounds=asked.rounds,
        fill=asked.fill,
        long_s=_LONG_S[device] if asked.long_s is None else asked.long_s,
    )
    sound = clips.material(noise=asked.noise or asked.synthetic is not None)
    processes = asked.clients or max(1, len(os.sched_getaffinity(0)) // _CORES_PER_CLIENT)
    task = progress.task("throughput")
    lines: list[Line] = []
    with _weights(asked, device) as weights, client_processes(processes) as clients:
        setup = Setup(weights, device, measure.most, options=options)
        with server.repository(setup) as where:
            engine = load(server.MODEL, server.engine_source(where, setup))
            lines += benchmark.engine_alone(engine, sound, measure, task)
        for count in asked.instances:
            setup = replace(setup, instances=count)
            what = "through Triton" if count == 1 else f"through Triton, {count} instances"
            # A full batch for each instance, and one that waits.
            turn = replace(measure, in_flight=measure.most * (count + 1))
            with server.repository(setup) as where, server.serving(settings, where, progress) as asking:
                lines += benchmark.through_triton(engine, asking, clients, sound, turn, task, what=what)
                lines += benchmark.alone(asking, sound, what=what)
                if measure.long_s:
                    lines.append(
                        benchmark.long_recording(settings, asking, sound, where, measure.long_s, what=what)
                    )
        engine.close()
        if asked.nemo:
            lines += nemo.measured(_for_nemo(weights), device, sound, measure, task)
    task.finish()
    return _report(asked, lines, measure, device, processes)


def _report(asked: Asked, lines: list[Line], measure: Measure, device: Device, processes: int) -> Report:
    return Report(
        title=f"Speed of recognition ({_weights_named(asked)}, {device_named(device)})",
        command=command_of(asked),
        rows=[line.row() for line in lines],
        notes=(
            f"Engine: medians of {measure.repeats} calls.",
            "Through Triton: gRPC, 16-bit audio, words with times and confidences; "
            f"{measure.fill * measure.most} recordings of {measure.clip_s:g} s from {processes} client "
            f"processes on the same machine, median of {measure.rounds} turns. In each turn the engine is "
            "measured first: versus_engine is the median of the ratios within a turn, minus 1.",
            "batch: recordings in a call, on average. One alone: one request at a time; the server's time is "
            "queue and compute from Triton's statistics.",
            "transport alone: digital silence, which the engine answers without computing.",
        ),
        versions=versions(("torch", "triton", "nemo_toolkit", "tritonclient", "grpcio", "numpy")),
    )


def numbers_of(option: str, text: str) -> tuple[int, ...]:
    """``1,8,32`` as numbers.

    Raises:
        ConfigurationError: it is no list of numbers above 0.
    """
    try:
        numbers = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        numbers = (0,)
    if any(number < 1 for number in numbers):
        raise ConfigurationError(f"{option} {text!r} is no list of numbers", fix="write it as 1,8,32")
    return numbers


def command_of(asked: Asked) -> str:
    """The command line that asks for the same, without paths of this machine."""
    default = Asked()
    words = ["spark-speech bench throughput"]
    if asked.weights is not None:
        words.append("--folder FOLDER")
    for name, value, usual in (
        ("synthetic", asked.synthetic, None),
        ("device", asked.device, default.device),
        ("batches", ",".join(map(str, asked.batches)), ""),
        ("seconds", f"{asked.clip_s:g}", f"{default.clip_s:g}"),
        ("repeats", asked.repeats, default.repeats),
        ("rounds", asked.rounds, default.rounds),
        ("fill", asked.fill, default.fill),
        ("long", None if asked.long_s is None else f"{asked.long_s:g}", None),
        ("instances", ",".join(map(str, asked.instances)), "1"),
        ("clients", asked.clients, None),
        ("options", f"'{asked.options}'", f"'{default.options}'"),
    ):
        if value != usual:
            words.append(f"--{name} {value}")
    words += [f"--{name}" for name, given in (("noise", asked.noise), ("nemo", asked.nemo)) if given]
    return " ".join(words)


def device_named(device: Device) -> str:
    """``cpu``, or the GPU's name."""
    if device == "cpu":
        return device
    import torch

    return str(torch.cuda.get_device_name())


@contextmanager
def _weights(asked: Asked, device: Device) -> Iterator[Path | None]:
    if asked.synthetic is None:
        yield asked.weights
        return
    from orchestrator.bench import synthetic

    with tempfile.TemporaryDirectory(prefix="spark-speech-synthetic-") as folder:
        synthetic.write(
            Path(folder),
            shape=asked.synthetic,
            device=device,
            precision="bfloat16" if device == "cuda" else "float32",
        )
        yield Path(folder)


def _weights_named(asked: Asked) -> str:
    if asked.synthetic is not None:
        return f"random weights of the {asked.synthetic} shape"
    return "the checkpoint in the package" if asked.weights is None else asked.weights.name


def _check(asked: Asked) -> None:
    if asked.synthetic is not None and asked.weights is not None:
        raise ConfigurationError("--folder and --synthetic are two kinds of weights", fix="use one of them")


def _for_nemo(weights: Path | None) -> Path:
    """The ``.nemo`` file, or the folder without one."""
    checkpoint = server.files_of(weights).get("model.nemo")
    return weights if checkpoint is None and weights is not None else checkpoint or Path()


def _options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except json.JSONDecodeError:
        options = None
    if not isinstance(options, dict):
        raise ConfigurationError(
            f"--options {text!r} is no JSON object", fix="for example --options '{\"cuda_graphs\": false}'"
        )
    return options
