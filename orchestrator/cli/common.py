"""What every verb of the command line shares: settings, output for people or as JSON, readable failures."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

from orchestrator.errors import SpeechError
from orchestrator.settings import ResolvedSettings, Settings, resolve

if TYPE_CHECKING:
    from orchestrator.transcript.routing import RoutingRecord

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of text for people.")]


@dataclass(frozen=True)
class Invocation:
    """One run of the command: what `main`'s options said, handed to the verb as ``ctx.obj``.

    Settings are read when a verb first asks, so that ``VERB --help`` works with a broken settings file.
    """

    config_file: Path | None = None
    overrides: tuple[str, ...] = field(default=(), repr=False)
    """What ``--set`` gave; kept out of the representation, as a value may be a secret."""
    verbosity: int = 0

    @cached_property
    def resolved(self) -> ResolvedSettings:
        """The settings and where each came from."""
        return resolve(self.config_file, self.overrides)


def invocation_of(ctx: typer.Context) -> Invocation:
    """What this run of the command was asked for."""
    invocation = ctx.find_object(Invocation)
    if invocation is None:  # a verb called without `main`'s callback is a programming error
        raise RuntimeError("no Invocation on the context")
    return invocation


def settings_of(ctx: typer.Context) -> Settings:
    """The settings this run of the command works with."""
    return invocation_of(ctx).resolved.settings


def emit(data: Any, human: Callable[[Console], None], *, as_json: bool) -> None:
    """Print ``data`` as JSON on standard output, or let ``human`` print it for people."""
    if as_json:
        json.dump(data, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        human(Console())


ExplainFlag = Annotated[
    bool, typer.Option("--explain", help="Say on standard error which engine did it, and why.")
]


def explain(record: RoutingRecord | None) -> None:
    """Print a router's decision on standard error; nothing where there is none."""
    if record is not None:
        console = Console(stderr=True)
        for line in record.lines():
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for JSON; known before it is parsed, as parsing may fail too."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in own


def report_failure(failure: SpeechError | dict[str, Any], *, as_json: bool) -> None:
    """Print a failure in red on standard error and, with ``--json``, as one object on standard output."""
    data = failure.to_dict() if isinstance(failure, SpeechError) else failure
    if isinstance(failure, SpeechError):
        text = str(failure)
    else:
        text = "\n".join([str(data["message"]), *([f"Fix: {data['fix']}"] if data["fix"] else [])])
    Console(stderr=True).print(f"Error: {text}", style="red", highlight=False, markup=False, soft_wrap=True)
    if as_json:
        emit(data, lambda console: None, as_json=True)


def configure_logging(verbosity: int) -> None:
    """Show this package's log on standard error: warnings, with ``-v`` what happens, with ``-vv`` all."""
    logger = logging.getLogger("orchestrator")
    logger.setLevel({0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG))
    if not logger.handlers:
        logger.addHandler(RichHandler(console=Console(stderr=True), show_path=False, markup=False))
