"""``spark-speech config``: the effective settings, where each came from, and a file to start from."""

from __future__ import annotations

import sys
from typing import Final

import typer
from rich.console import Console
from rich.table import Column, Table

from orchestrator.cli.common import JsonFlag, emit, invocation_of

_VALUE_WIDTH: Final = 64
"""Characters of a line; longer values are folded, and leave room for where they came from."""


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    group = typer.Typer(no_args_is_help=True, help="Show the settings and where each came from.")
    group.command("show")(show)
    group.command("path")(path)
    group.command("example")(example)
    app.add_typer(group, name="config")


def show(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Print the effective settings and where each came from; secrets are masked."""
    resolved = invocation_of(ctx).resolved
    rows = list(resolved.rows())
    data = {
        "config_file": None if resolved.config_file is None else str(resolved.config_file),
        "settings": {
            row.key: {"value": row.value, "origin": row.origin.kind, "origin_name": row.origin.name}
            for row in rows
        },
    }

    def human(console: Console) -> None:
        value_column = Column("Value", max_width=_VALUE_WIDTH, overflow="fold")
        table = Table("Setting", value_column, "From", box=None, pad_edge=False)
        for row in rows:
            value = "(not set)" if row.value is None else str(row.value)
            style = "dim" if row.origin.kind == "default" else None
            table.add_row(row.key, value, str(row.origin), style=style)
        console.print(table, markup=False)

    emit(data, human, as_json=as_json)


def path(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Print the settings file that is read; nothing where there is none."""
    resolved = invocation_of(ctx).resolved
    name = None if resolved.config_file is None else str(resolved.config_file)
    emit(
        {"config_file": name},
        lambda console: None if name is None else console.print(name, soft_wrap=True, highlight=False),
        as_json=as_json,
    )


def example() -> None:
    """Print a settings file with every key, its default and what it means."""
    from orchestrator.resources import example_config

    sys.stdout.write(example_config().read_text(encoding="utf-8"))
