"""``spark-speech gate``: does this server do its work, well and soon enough?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.common import JsonFlag, emit, settings_of
from orchestrator.errors import ConfigurationError

if TYPE_CHECKING:
    from orchestrator.deploy.gate import GateReport
    from orchestrator.settings import Settings

_STYLES: Final = {"passed": "green", "failed": "red", "skipped": "yellow"}
API_KEY: Final = "SPARK_SPEECH_GATE_API_KEY"
_STANDARD_INPUT: Final = "-"


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("gate")(gate)


def gate(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Triton's gRPC; client.url if left out.", show_default=False),
    ] = None,
    gateway: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The gateway, http://host:port; asked as well.", show_default=False),
    ] = None,
    secrets: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"An environment file with {API_KEY}, a key of the gateway's; left out, it comes from the "
            "environment.",
            show_default=False,
        ),
    ] = None,
    recording: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What must be heard; a dialogue in this package if left out."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The text of what it says; beside it, as .txt, if left out."),
    ] = None,
    language: Annotated[str, typer.Option(help="What is spoken in the recording.")] = "en",
    model: Annotated[
        str | None,
        typer.Option(help="Ask this recogniser alone; left out, each one.", show_default=False),
    ] = None,
    release: Annotated[
        str | None,
        typer.Option(metavar="ID", help="All models of this release must be there.", show_default=False),
    ] = None,
    max_wer: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="RATIO", help="Errors for each word, at most.", show_default="0.4"),
    ] = None,
    max_latency: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="SECONDS", help="For one transcript, at most.", show_default="30"),
    ] = None,
    memory_floor: Annotated[
        int | None,
        typer.Option(min=0, metavar="MIB", help="Memory that must be available.", show_default="8192"),
    ] = None,
    units: Annotated[
        list[str] | None,
        typer.Option(
            "--unit", metavar="UNIT", help="No error since this systemd unit's start; may be repeated."
        ),
    ] = None,
    logs: Annotated[
        list[str] | None,
        typer.Option("--log", metavar="FILE|-", help="No error in this log; may be repeated."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Let a server prove itself: real transcripts within bounds, all models, memory, log.

    Exit codes: 0 passed, 1 not, 2 wrong usage or settings.
    """
    from orchestrator.client import SpeechClient
    from orchestrator.deploy import recording as recordings
    from orchestrator.deploy.gate import Bounds, Gate
    from orchestrator.deploy.gateway_probe import GatewayProbe
    from orchestrator.progress import RichProgress

    settings = settings_of(ctx)
    if reference is not None and recording is None:
        raise typer.BadParameter("it belongs to a --recording", param_hint="--reference")
    known = (
        recordings.packaged() if recording is None else recordings.from_files(recording, reference, language)
    )
    default = Bounds()
    bounds = Bounds(
        default.max_wer if max_wer is None else max_wer,
        default.max_latency_s if max_latency is None else max_latency,
        default.memory_floor_mib if memory_floor is None else memory_floor,
    )
    probe = (
        None
        if gateway is None
        else GatewayProbe(gateway, api_key=_api_key(secrets), timeout_s=settings.client.timeout_s)
    )
    with SpeechClient(url, settings=settings) as client, RichProgress() as progress:
        report = Gate(
            client,
            known,
            bounds,
            probe,
            model,
            _models_of(release, settings),
            (*_journals(units or []), *_files(logs or [])),
        ).run(progress)
    emit(report.to_dict(), lambda console: _show(report, console), as_json=as_json)
    raise typer.Exit(0 if report.passed else 1)


def _api_key(secrets: Path | None) -> str | None:
    """From a file or the environment: a command line can be read by everybody on the machine."""
    if secrets is None:
        return os.environ.get(API_KEY)
    try:
        lines = secrets.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{secrets} cannot be read", path=secrets, fix="name an environment file, and ask as its owner."
        ) from error
    found = [line.partition("=")[2] for line in lines if line.partition("=")[0].strip() == API_KEY]
    return found[-1].strip().strip("\"'") if found else None


def _models_of(release: str | None, settings: Settings) -> tuple[str, ...]:
    if release is None:
        return ()
    from orchestrator.repository.release import ReleaseStore

    return ReleaseStore(settings.paths.home).find(release).models


def _journals(units: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    from orchestrator.deploy.journal import since_start
    from orchestrator.runtime.log import error_lines

    return [(f"log of {unit}", tuple(error_lines(since_start(unit)))) for unit in units]


def _files(logs: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    from orchestrator.runtime.log import error_lines

    found = []
    for name in logs:
        try:
            text = sys.stdin.read() if name == _STANDARD_INPUT else Path(name).read_text(errors="replace")
        except OSError as error:
            raise ConfigurationError(
                f"{name} cannot be read: {error.strerror}", path=name, fix="name another log."
            ) from error
        found.append(("log" if name == _STANDARD_INPUT else f"log {name}", tuple(error_lines(text))))
    return found


def _show(report: GateReport, console: Console) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in report.findings:
        table.add_row(
            Text(finding.outcome, style=_STYLES[finding.outcome]), Text(finding.name), Text(finding.message)
        )
        if finding.fix is not None:
            table.add_row("", "", Text(f"Fix: {finding.fix}", style="dim"))
    console.print(table, highlight=False)
    console.print("Passed" if report.passed else "Not passed", style="green" if report.passed else "red")
