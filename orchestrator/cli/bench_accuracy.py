"""``spark-speech bench``: what is right of what is heard: words, speakers, times."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.bench_common import (
    Recordings,
    ReleaseName,
    diarizer_of,
    recordings_in,
    release_named,
    serving,
    show,
)
from orchestrator.cli.common import JsonFlag, settings_of


def accuracy(
    ctx: typer.Context,
    recordings: Recordings = None,
    engine: Annotated[str, typer.Option(help="A recogniser of the release, or auto.")] = "auto",
    release: ReleaseName = "current",
    as_json: JsonFlag = False,
) -> None:
    """WER, cpWER and DER of the whole service, through a server of its own."""
    from orchestrator.bench import accuracy as bench
    from orchestrator.progress import RichProgress

    settings = settings_of(ctx)
    chosen = recordings_in(recordings)
    with RichProgress() as progress, serving(settings, release_named(settings, release), progress) as client:
        report = bench.run(client, chosen, engine=engine, progress=progress)
    show(report, as_json=as_json)


def diarization(
    ctx: typer.Context,
    recordings: Recordings = None,
    release: ReleaseName = "current",
    as_json: JsonFlag = False,
) -> None:
    """DER of the diarizer alone, in this process."""
    from orchestrator.bench import diarization as bench
    from orchestrator.bench.report import Report, versions
    from orchestrator.progress import RichProgress

    chosen = recordings_in(recordings)
    model = diarizer_of(settings_of(ctx), release)
    with RichProgress() as progress:
        rows = bench.run(model, chosen, progress=progress)
    report = Report(
        title="The diarizer alone",
        command="spark-speech bench diarization --recordings FOLDER",
        rows=rows,
        notes=("Overlapping speech is counted; der has no collar, der_collar 0.25 s on each side.",),
        versions=versions(bench.PACKAGES),
    )
    show(report, as_json=as_json)


def online_speakers(
    ctx: typer.Context,
    recordings: Recordings = None,
    release: ReleaseName = "current",
    as_json: JsonFlag = False,
) -> None:
    """DER of live streams' speakers beside the whole recording's, and how long they take, in this process."""
    from orchestrator.bench import online_speakers as bench
    from orchestrator.progress import RichProgress

    chosen = recordings_in(recordings)
    model = diarizer_of(settings_of(ctx), release)
    with RichProgress() as progress:
        report = bench.run(model, chosen, progress=progress)
    show(report, as_json=as_json)


def word_times(
    ctx: typer.Context,
    recordings: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A folder with a manifest.json of recordings; those with word_times are taken.",
            show_default=False,
        ),
    ] = None,
    sentences: Annotated[
        int, typer.Option(min=0, help="Sentences that each voice of festival says as well.")
    ] = 10,
    release: ReleaseName = "current",
    as_json: JsonFlag = False,
) -> None:
    """How far the word times of a release's recognisers and of its aligner are off, in this process."""
    from orchestrator.bench import word_times_command as bench
    from orchestrator.progress import RichProgress

    chosen = release_named(settings_of(ctx), release)
    with RichProgress() as progress:
        report = bench.run(chosen, recordings, sentences, progress=progress)
    show(report, as_json=as_json)


def streaming_accuracy(
    recordings: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A folder with a manifest.json of recordings; by default a dialogue and made sentences.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="The weights: a folder; by default the embedded ones.")
    ] = None,
    count: Annotated[int, typer.Option(help="Sentences of each made set.", min=2)] = 40,
    device: Annotated[str, typer.Option(help="A torch device.")] = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """What live streams cost in words, and how long words take, by preset; in this process."""
    from orchestrator.bench import streaming_accuracy as bench
    from orchestrator.bench.recordings import from_folder
    from orchestrator.progress import RichProgress

    chosen = None if recordings is None else from_folder(recordings)
    with RichProgress() as progress:
        report = bench.run(folder, chosen, count=count, device=device, progress=progress)
    show(report, as_json=as_json)
