"""The root command: global options, the verbs, and one place where errors become exit codes."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from orchestrator.cli.common import Invocation
from orchestrator.errors import SpeechError
from orchestrator.settings import Settings

VERBS = ()


def build_app() -> typer.Typer:
    """The Typer application with every verb registered."""
    app = typer.Typer(name="spark-speech", no_args_is_help=True, pretty_exceptions_enable=False)

    @app.callback()
    def root(ctx: typer.Context) -> None:
        """A private speech service: who said what, when."""
        ctx.obj = Invocation(settings=Settings())

    return app


def main() -> None:
    """Entry point of the ``spark-speech`` command."""
    try:
        build_app()()
    except SpeechError as error:
        Console(stderr=True).print(str(error), style="red", highlight=False, markup=False)
        sys.exit(error.exit_code)
