"""What every verb of the command line shares: settings, output for people or as JSON, readable failures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console

from orchestrator.settings import Settings

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of text for people.")]


@dataclass(frozen=True, slots=True)
class Invocation:
    """One run of the command: what `main`'s options said, handed to the verb as ``ctx.obj``."""

    settings: Settings


def settings_of(ctx: typer.Context) -> Settings:
    """The settings this run of the command works with."""
    invocation = ctx.find_object(Invocation)
    if invocation is None:  # a verb called without `main`'s callback is a programming error
        raise RuntimeError("no Invocation on the context")
    return invocation.settings


def emit(data: Any, human: Callable[[Console], None], *, as_json: bool) -> None:
    """Print ``data`` as JSON on standard output, or let ``human`` print it for people."""
    if as_json:
        json.dump(data, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        human(Console())
