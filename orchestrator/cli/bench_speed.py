"""``spark-speech bench``: how fast one thing is: engines, the way to them, stitching, the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from orchestrator.cli.bench_common import ReleaseName, release_named, serving, show
from orchestrator.cli.common import JsonFlag, settings_of
from orchestrator.errors import ConfigurationError


def overhead(
    ctx: typer.Context,
    engine: Annotated[str, typer.Option(help="A recogniser of the release.")] = "moonshine",
    seconds: Annotated[float, typer.Option(help="Length of each recording.", min=1, max=20)] = 10.0,
    release: ReleaseName = "current",
    as_json: JsonFlag = False,
) -> None:
    """What Triton and the client add to an engine, side by side with the engine in this process."""
    from orchestrator import audio
    from orchestrator.bench import overhead as bench
    from orchestrator.bench.recordings import packaged
    from orchestrator.contract import SAMPLE_RATE_HZ, Task
    from orchestrator.engines import EngineSource, load
    from orchestrator.progress import RichProgress
    from orchestrator.repository.plan import version_folder

    settings = settings_of(ctx)
    found = release_named(settings, release)
    recognisers = [model.name for model in found.manifest.models if model.task == Task.RECOGNIZE]
    if engine not in recognisers:
        raise ConfigurationError(
            f"release {found.id[:16]} has no recogniser {engine!r}",
            fix=f"use --engine {' or '.join(recognisers)}"
            if recognisers
            else "build one with `spark-speech build`",
        )
    # The call begins to be lively after 6.5 s.
    begin = int(6.5 * SAMPLE_RATE_HZ)
    speech = audio.decode(packaged().audio).samples[0][begin : begin + int(seconds * SAMPLE_RATE_HZ)]
    with RichProgress() as progress, serving(settings, found, progress) as client:
        here = load(engine, EngineSource(found.model_repository / version_folder(engine)))
        report = bench.run(here, client, speech, progress=progress)
    show(report, as_json=as_json)


def throughput(
    ctx: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Option(help="The weights: a folder or a .nemo file; by default the ones in this package."),
    ] = None,
    synthetic: Annotated[
        Literal["0.6b", "tiny"] | None, typer.Option(help="Random weights of this shape instead.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    batches: Annotated[str, typer.Option(help="Recordings in a call, such as 1,8,32,64,128.")] = "",
    seconds: Annotated[float, typer.Option(help="Length of each recording.", min=1, max=30)] = 20.0,
    repeats: Annotated[int, typer.Option(help="Calls of the engine for one figure.", min=1)] = 5,
    rounds: Annotated[int, typer.Option(help="Turns of engine and server.", min=1)] = 3,
    fill: Annotated[int, typer.Option(help="Largest batches sent in a turn.", min=1)] = 10,
    long: Annotated[
        float | None, typer.Option(help="Length of the long recording in seconds; 0 leaves it out.", min=0)
    ] = None,
    instances: Annotated[
        str, typer.Option(help="Processes to serve with, such as 1,2: one server after the other.")
    ] = "1",
    clients: Annotated[
        int | None, typer.Option(help="Client processes; by default one for each four cores.", min=1)
    ] = None,
    noise: Annotated[bool, typer.Option("--noise", help="Noise in place of recorded speech.")] = False,
    nemo: Annotated[bool, typer.Option("--nemo", help="NeMo in this process as well.")] = False,
    options: Annotated[str, typer.Option(help="Options of the engine, a JSON object.")] = "{}",
    as_json: JsonFlag = False,
) -> None:
    """Parakeet's speed: the engine in this process, and through Triton; one recording alone, one long one."""
    from orchestrator.bench.throughput import command as bench
    from orchestrator.progress import RichProgress
    from orchestrator.runtime.process import ending_on_termination

    asked = bench.Asked(
        weights=None if folder is None else folder.expanduser().absolute(),
        synthetic=synthetic,
        device=device,
        batches=bench.numbers_of("--batches", batches),
        clip_s=seconds,
        repeats=repeats,
        rounds=rounds,
        fill=fill,
        long_s=long,
        instances=bench.numbers_of("--instances", instances) or (1,),
        clients=clients,
        noise=noise,
        nemo=nemo,
        options=options,
    )
    settings = settings_of(ctx)
    with ending_on_termination(), RichProgress() as progress:
        report = bench.run(settings, asked, progress=progress)
    show(report, as_json=as_json)


def stitching(as_json: JsonFlag = False) -> None:
    """How fast words are given their speakers, for 24, 48 and 96 hours of speech."""
    from orchestrator.bench import stitching as bench
    from orchestrator.bench.report import Report, versions

    report = Report(
        title="Stitching words with turns",
        command="spark-speech bench stitching",
        rows=bench.run(),
        notes=(
            "array core: labels from arrays; estimated: and changes moved to punctuation; "
            "transcript: with an object built for every word.",
        ),
        versions=versions(("numpy", "pydantic")),
    )
    show(report, as_json=as_json)


def demo(
    engine: Annotated[Literal["moonshine", "parakeet"], typer.Option(help="The recogniser.")] = "moonshine",
    as_json: JsonFlag = False,
) -> None:
    """Wall time of the demo from an empty home, and again with everything in place."""
    from orchestrator.bench import demo as bench
    from orchestrator.progress import RichProgress
    from orchestrator.runtime.process import ending_on_termination

    with ending_on_termination(), RichProgress() as progress:
        report = bench.run(engine, progress=progress)
    show(report, as_json=as_json)
