"""``spark-speech stream``: what is being said, as it is said."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from orchestrator.cli.common import ExplainFlag, explain, report_failure, settings_of
from orchestrator.errors import SpeechError

if TYPE_CHECKING:
    from orchestrator.client import BlockingLiveStream
    from orchestrator.client.outputs import Target
    from orchestrator.client.stream.options import StreamArgs
    from orchestrator.client.stream.sources import StreamSource
    from orchestrator.settings import Settings
    from orchestrator.transcript.models import Transcript

MICROPHONE: Final = "mic"
STANDARD_INPUT: Final = "-"
_NO_KEY: Final = "stream"
"""In the record of a batch: no later run takes a stream's transcript for a recording's."""
_BLOCK_BYTES: Final = 3200
"""What is asked of standard input at once; less comes where less is there."""


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("stream")(stream)


def stream(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|mic|-", help="A recording, the microphone, or 16-bit PCM on standard input."
        ),
    ],
    language: Annotated[
        str | None, typer.Option(help="Language tag such as en or de-CH; left out, the model's first.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Streaming engine or model; auto takes the best one.")] = "auto",
    diarize: Annotated[
        bool | None,
        typer.Option(
            "--diarize/--no-diarize",
            help="Name the speakers; left out, if the server can.",
            show_default=False,
        ),
    ] = None,
    max_speakers: Annotated[
        int | None, typer.Option(min=1, help="At most so many speakers.", show_default=False)
    ] = None,
    relabel: Annotated[
        bool, typer.Option("--relabel", help="Find the speakers once more in the whole, at the end.")
    ] = False,
    partials: Annotated[bool, typer.Option(help="Show what is not final yet.")] = True,
    realtime: Annotated[
        bool, typer.Option(help="Send a file at the speed of speech, or as fast as the server takes it.")
    ] = True,
    pause: Annotated[
        int | None,
        typer.Option(min=1, metavar="MS", help="Silence that ends an utterance.", show_default=False),
    ] = None,
    chunk: Annotated[
        int | None,
        typer.Option(
            min=10,
            metavar="MS",
            help="Audio of one request; the model's step if left out.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="The microphone, by number or name.", show_default=False),
    ] = None,
    sample_rate: Annotated[
        int | None,
        typer.Option(metavar="HZ", help="Of standard input; 16000 if left out.", show_default=False),
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME[,NAME]",
            help="Write the transcript at the end, to standard output or to the folder of --output: json, "
            "txt, srt, vtt, rttm, ctm, stm or seglst; json in a folder unless said otherwise.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Write the transcript here.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of others.")] = False,
    timeout: Annotated[float | None, typer.Option(min=0.001, help="Seconds for each answer.")] = None,
    url: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Triton's gRPC; client.url if left out.", show_default=False),
    ] = None,
    explained: ExplainFlag = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line for each event.")
    ] = False,
) -> None:
    """Write down what is being said, as it is said.

    Ctrl-C ends the stream: what was said so far becomes final and is written. A second Ctrl-C does not wait.

    Exit codes: 0 done, also after Ctrl-C; 1 something failed: then what was final is written all the same.
    """
    names = [name.strip() for name in formats.split(",") if name.strip()] if formats else []
    if output is None and len(names) > 1:
        raise typer.BadParameter("several formats need a folder: add --output DIR", param_hint="--format")
    if output is None and names and as_json:
        raise typer.BadParameter("with --json it needs a folder: add --output DIR", param_hint="--format")
    options: StreamArgs = {
        "language": language,
        "engine": engine,
        "diarize": diarize,
        "max_speakers": max_speakers,
        "relabel": relabel,
        "partials": partials,
        "pace": "realtime" if realtime else "fast",
        "chunk_ms": chunk,
        "timeout": timeout,
    }
    if source == STANDARD_INPUT:
        options["sample_rate"] = sample_rate
    elif sample_rate is not None:
        raise typer.BadParameter("only standard input needs one", param_hint="--sample-rate")
    if pause is not None:
        options["endpointing"] = {"stop_history_ms": pause}
    settings = settings_of(ctx)
    from orchestrator.client import SpeechClient  # brings gRPC, which `--help` need not wait for

    writer = _Writer(source, names, output, overwrite=overwrite)
    with SpeechClient(url, settings=settings) as client:
        live = client.stream(_open(source, device, settings), **options)
        try:
            _run(live, writer, as_json=as_json)
        finally:
            if explained:
                explain(live.routing)


def _open(source: str, device: str | None, settings: Settings) -> StreamSource:
    if source == MICROPHONE:
        from orchestrator.client import Microphone

        number = int(device) if device is not None and device.isdecimal() else device
        return Microphone(number, buffer_s=settings.client.stream_backlog_s)
    return _standard_input() if source == STANDARD_INPUT else source


def _standard_input() -> Iterator[bytes]:
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as pipe:
        while data := pipe.read(_BLOCK_BYTES):
            yield data


def _run(live: BlockingLiveStream, writer: _Writer, *, as_json: bool) -> None:
    from orchestrator.cli.live_view import LiveView
    from orchestrator.client import Completed
    from orchestrator.client.stream.events import event_dict
    from orchestrator.client.stream.results import Finals

    finals = Finals()
    done: Transcript | None = None
    view = LiveView(Console(stderr=as_json or writer.to_stdout, quiet=as_json))
    try:
        with view, _first_interrupt(live):
            for event in live:
                finals.add(event)
                view.show(event)
                if as_json:
                    _print_line(event_dict(event))
                if isinstance(event, Completed):
                    done = event.transcript
    except (SpeechError, KeyboardInterrupt) as error:
        rest = finals.transcript(source=writer.name)
        if rest.segments:  # what is final is not lost
            writer.write(rest)
        if as_json and isinstance(error, SpeechError):
            _print_line({"event": "error", **error.to_dict()})
            report_failure(error, as_json=False)
            raise typer.Exit(error.exit_code) from error
        raise
    writer.write(done or finals.transcript(source=writer.name))


def _print_line(data: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
    sys.stdout.flush()


@contextmanager
def _first_interrupt(live: BlockingLiveStream) -> Iterator[None]:
    """The first Ctrl-C lets the stream end; the next one is Python's own."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        live.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Writer:
    """Where the transcript goes at the end: standard output, files, or nowhere."""

    def __init__(self, source: str, names: list[str], output: Path | None, *, overwrite: bool) -> None:
        """Check formats and folder, before any work is done.

        Raises:
            TranscriptFormatError: an unknown format.
            ConfigurationError: the folder cannot be written, or a file of others is in the way.
        """
        from orchestrator.client import outputs
        from orchestrator.transcript import formats

        for name in names:
            formats.suffix(name)
        self._names = names
        self._target: Target | None = None
        self.name = Path(source).name
        if output is not None:
            outputs.prepare(output)
            self._target = _target(source, output, tuple(names) or ("json",))
            if not overwrite:
                outputs.refuse_foreign(self._target)

    @property
    def to_stdout(self) -> bool:
        """Whether standard output is for the transcript."""
        return self._target is None and bool(self._names)

    def write(self, transcript: Transcript) -> None:
        """Write it, and say where."""
        from orchestrator.client import outputs
        from orchestrator.transcript import formats

        if self._target is not None:
            outputs.write(self._target, _NO_KEY, transcript)
            for path in self._target.outputs.values():
                Console(stderr=True).print(f"-> {path}", highlight=False, markup=False, soft_wrap=True)
        elif self._names:
            sys.stdout.write(formats.dumps(transcript, self._names[0]))


def _target(source: str, folder: Path, names: tuple[str, ...]) -> Target:
    from orchestrator.client import outputs

    if source not in (MICROPHONE, STANDARD_INPUT):
        return outputs.plan([Path(source)], folder, names)[0]
    name = f"{'microphone' if source == MICROPHONE else 'stream'}-{datetime.now():%Y%m%d-%H%M%S}"
    return outputs.Target(folder / name, folder, name, names)
