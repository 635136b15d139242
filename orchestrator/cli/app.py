"""The root command: global options, the verbs, and one place where errors become exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final

import typer
from rich.console import Console

from orchestrator import __version__
from orchestrator.cli.common import Invocation, configure_logging, report_failure, wants_json
from orchestrator.errors import SpeechError
from orchestrator.settings import Settings
from orchestrator.settings_sources import known_keys

VERBS: Final = (
    "demo",
    "build",
    "up",
    "down",
    "status",
    "deploy",
    "rollback",
    "logs",
    "undeploy",
    "gateway",
    "transcribe",
    "stream",
    "gate",
    "prewarm",
    "render",
    "doctor",
    "engines",
    "bench",
    "config",
)
"""Modules of `orchestrator.cli`, each with a ``register(app)``, in the order that ``--help`` lists them."""

INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""


def build_app() -> typer.Typer:
    """The Typer application with every verb registered."""
    app = typer.Typer(name="spark-speech", no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(root)
    for verb in VERBS:
        importlib.import_module(f"orchestrator.cli.{verb}").register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spark-speech {__version__}")
        raise typer.Exit


def _complete_key(incomplete: str) -> list[str]:
    return [f"{key}=" for key in known_keys(Settings) if key.startswith(incomplete)]


def root(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Settings file; ./spark-speech.toml by default.", show_default=False
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Override one setting; may be repeated.",
            autocompletion=_complete_key,
        ),
    ] = None,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            metavar="",
            show_default=False,
            help="Log what happens; -vv logs more.",
        ),
    ] = 0,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A private speech service: who said what, when."""
    configure_logging(verbose)
    ctx.obj = Invocation(config_file=config, overrides=tuple(overrides or ()), verbosity=verbose)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``spark-speech`` command; ends the process with its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    as_json = wants_json(arguments)
    sys.excepthook = partial(_report_crash, arguments)
    try:
        code = _run(arguments, as_json=as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has gone. What is still buffered must go nowhere, or Python complains at
        # exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _run(arguments: Sequence[str], *, as_json: bool) -> int:
    try:
        command = typer.main.get_command(build_app())
        # With --json, usage errors come here too; without, Typer prints them for people.
        result = command.main(args=arguments, prog_name="spark-speech", standalone_mode=not as_json)
        code = result if isinstance(result, int) else 0
    except SpeechError as error:
        report_failure(error, as_json=as_json)
        return error.exit_code
    except typer.TyperException as error:
        report_failure(
            {"error": "UsageError", "message": error.format_message(), "fix": "see `spark-speech --help`."},
            as_json=as_json,
        )
        return error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except typer.Abort:
        code = 1
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
    if code == INTERRUPTED:
        Console(stderr=True).print("Interrupted.", style="yellow")
    return code


def _report_crash(
    arguments: Sequence[str],
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    """Stand in for Python's traceback, which ``-v`` brings back."""
    if any(argument in ("--verbose", "-v", "-vv") for argument in arguments):
        sys.__excepthook__(kind, error, trace)
        return
    report_failure(
        {
            "error": "InternalError",
            "message": f"this is a fault in spark-speech: {kind.__name__}: {error}",
            "fix": "run `spark-speech -v ...` for the details, and report them.",
        },
        as_json=wants_json(arguments),
    )
