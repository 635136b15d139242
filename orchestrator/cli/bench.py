"""``spark-speech bench``: measure accuracy, overhead, growth and the demo, each with one command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orchestrator.cli.common import JsonFlag, emit, settings_of
from orchestrator.errors import ConfigurationError

if TYPE_CHECKING:
    from orchestrator.bench.report import Report
    from orchestrator.client import SpeechClient
    from orchestrator.progress import ProgressReporter
    from orchestrator.repository.release import Release
    from orchestrator.settings import Settings

Recordings = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="A folder with a manifest.json of recordings; by default the one recording in pyannote.audio.",
        show_default=False,
    ),
]
ReleaseName = Annotated[str, typer.Option(help="The start of a release's id, or `current`.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    group = typer.Typer(help="Measure: accuracy, overhead, growth, the demo.", no_args_is_help=True)
    for verb in (accuracy, overhead, diarization, stitching, demo):
        group.command(verb.__name__)(verb)
    app.add_typer(group, name="bench")


def accuracy(
    ctx: typer.Context,
    recordings: Recordings = None,
    engine: Annotated[str, typer.Option(help="A recogniser of the release, or auto.")] = "auto",
    release: ReleaseName = "current",
    as_json: JsonFlag = False,
) -> None:
    """WER, cpWER and DER of the whole service, through a server of its own."""
    from orchestrator.bench import accuracy as bench
    from orchestrator.bench.recordings import from_folder, packaged
    from orchestrator.progress import RichProgress

    settings = settings_of(ctx)
    chosen = [packaged()] if recordings is None else from_folder(recordings)
    with RichProgress() as progress, _serving(settings, _release(settings, release), progress) as client:
        report = bench.run(client, chosen, engine=engine, progress=progress)
    _show(report, as_json=as_json)


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
    found = _release(settings, release)
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
    with RichProgress() as progress, _serving(settings, found, progress) as client:
        here = load(engine, EngineSource(found.model_repository / version_folder(engine)))
        report = bench.run(here, client, speech, progress=progress)
    _show(report, as_json=as_json)


def diarization(
    ctx: typer.Context,
    recordings: Recordings = None,
    release: ReleaseName = "current",
    as_json: JsonFlag = False,
) -> None:
    """DER of the diarizer alone, in this process."""
    from orchestrator.bench import diarization as bench
    from orchestrator.bench.recordings import from_folder, packaged
    from orchestrator.bench.report import Report, versions
    from orchestrator.progress import RichProgress
    from orchestrator.repository.plan import version_folder

    chosen = [packaged()] if recordings is None else from_folder(recordings)
    model = _release(settings_of(ctx), release).model_repository / version_folder("diarizer")
    with RichProgress() as progress:
        rows = bench.run(model, chosen, progress=progress)
    report = Report(
        title="The diarizer alone",
        command="spark-speech bench diarization --recordings FOLDER",
        rows=rows,
        notes=("Overlapping speech is counted; der has no collar, der_collar 0.25 s on each side.",),
        versions=versions(bench.PACKAGES),
    )
    _show(report, as_json=as_json)


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
    _show(report, as_json=as_json)


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
    _show(report, as_json=as_json)


def _release(settings: Settings, name: str) -> Release:
    from orchestrator.repository.release import ReleaseStore

    return ReleaseStore(settings.paths.home).find(name)


@contextmanager
def _serving(settings: Settings, release: Release, progress: ProgressReporter) -> Iterator[SpeechClient]:
    """A client of a temporary server over ``release``."""
    from orchestrator.client import SpeechClient
    from orchestrator.runtime import triton
    from orchestrator.runtime.process import ending_on_termination
    from orchestrator.runtime.temporary import temporary_server

    home = settings.paths.home
    installed = triton.install(home, home / "cache", progress)
    with (
        ending_on_termination(),
        temporary_server(settings, release, installed, progress, name="bench") as server,
        SpeechClient(server.url, settings=settings) as client,
    ):
        yield client


def _show(report: Report, *, as_json: bool) -> None:
    emit(report.to_dict(), report.print, as_json=as_json)
