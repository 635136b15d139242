"""``spark-speech transcribe``: recordings in, transcripts out."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from orchestrator.cli.common import ExplainFlag, JsonFlag, emit, explain, settings_of

if TYPE_CHECKING:
    from orchestrator.client import FileResult, SpeechClient
    from orchestrator.client.options import TranscribeArgs


class Channels(StrEnum):
    """What the channels of a recording are."""

    MIX = "mix"
    SEPARATE = "separate"


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("transcribe")(transcribe)


def transcribe(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Audio or video files.")],
    language: Annotated[
        str | None, typer.Option(help="Language tag such as en or de-CH; left out, the engine decides.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Engine or model; auto takes the best one.")] = "auto",
    diarize: Annotated[bool, typer.Option(help="Find out who said what.")] = True,
    speakers: Annotated[int | None, typer.Option(min=1, help="How many speakers there are.")] = None,
    min_speakers: Annotated[int | None, typer.Option(min=1, help="At least so many speakers.")] = None,
    max_speakers: Annotated[int | None, typer.Option(min=1, help="At most so many speakers.")] = None,
    channels: Annotated[
        Channels, typer.Option(help="mix: one recording; separate: each channel is one speaker's.")
    ] = Channels.MIX,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME[,NAME]",
            help="json, txt, srt, vtt, rttm, ctm, stm or seglst; txt on the terminal and json in a folder "
            "unless said otherwise.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Write files here; finished ones are not redone."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Redo finished files, and replace files of others.")
    ] = False,
    align: Annotated[
        bool | None,
        typer.Option(
            "--align/--no-align",
            help="Measure word times with the server's aligner where the engine has none; "
            "routing.align if left out.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[float | None, typer.Option(min=0.001, help="Seconds for each recording.")] = None,
    url: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Triton's gRPC; client.url if left out.", show_default=False),
    ] = None,
    explained: ExplainFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Write down what was said in recordings, by whom and when.

    One file goes to standard output. With --output, files go to a folder: a second run does only what is
    missing, and a file that fails does not stop the others.

    Exit codes: 0 all done, 1 something failed.
    """
    names = [name.strip() for name in formats.split(",") if name.strip()] if formats else []
    if output is None and len(files) > 1:
        raise typer.BadParameter("several files need a folder: add --output DIR", param_hint="FILE...")
    if output is None and len(names) > 1:
        raise typer.BadParameter("several formats need a folder: add --output DIR", param_hint="--format")
    options: TranscribeArgs = {
        "language": language,
        "engine": engine,
        "diarize": diarize,
        "num_speakers": speakers,
        "min_speakers": min_speakers,
        "max_speakers": max_speakers,
        "channels": channels.value,
        "align": align,
        "timeout": timeout,
    }
    from orchestrator.client import SpeechClient  # brings gRPC, which `--help` need not wait for

    with SpeechClient(url, settings=settings_of(ctx)) as client:
        if output is None:
            name = "json" if as_json else names[0] if names else "txt"
            _to_stdout(client, files[0], name, options, explained=explained)
            return
        results = _to_folder(client, files, output, names or ["json"], overwrite, options)
    data = [result.to_dict() for result in results]
    emit(data, lambda console: _show(results, console), as_json=as_json)
    for result in results if explained else ():
        if result.routing is not None:
            Console(stderr=True).print(f"{result.source}:", highlight=False, markup=False, soft_wrap=True)
            explain(result.routing)
    if any(result.status == "failed" for result in results):
        raise typer.Exit(1)


def _to_stdout(
    client: SpeechClient, file: Path, name: str, options: TranscribeArgs, *, explained: bool
) -> None:
    from orchestrator.progress import RichProgress
    from orchestrator.transcript import formats

    formats.suffix(name)  # a wrong name fails now, not after the work
    with RichProgress() as progress:
        transcript = client.transcribe(file, progress=progress, **options)
    sys.stdout.write(formats.dumps(transcript, name))
    if explained:
        explain(transcript.routing)


def _to_folder(
    client: SpeechClient,
    files: list[Path],
    output: Path,
    names: list[str],
    overwrite: bool,
    options: TranscribeArgs,
) -> list[FileResult]:
    from orchestrator.progress import RichProgress

    with RichProgress() as progress:
        return client.transcribe_many(
            files, output, formats=names, overwrite=overwrite, progress=progress, **options
        )


def _show(results: list[FileResult], console: Console) -> None:
    for result in results:
        if result.status != "failed":
            outputs = ", ".join(str(path) for path in result.outputs)
            note = "" if result.status == "done" else " (done before)"
            console.print(
                f"{result.source} -> {outputs}{note}", highlight=False, markup=False, soft_wrap=True
            )
    failed = [result for result in results if result.status == "failed"]
    if not failed:
        return
    table = Table("File", "Error", "What to do", title=f"{len(failed)} of {len(results)} files failed")
    for result in failed:
        error: Any = result.error
        table.add_row(str(result.source), f"{type(error).__name__}: {error.message}", error.fix or "")
    Console(stderr=True).print(table, highlight=False, markup=False)
