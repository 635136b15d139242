"""``spark-speech doctor``: is this machine fit to serve?"""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

from orchestrator.cli.common import JsonFlag, emit, settings_of

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def register(app: typer.Typer) -> None:
    """Add the verb to the application; examinations of single things are verbs below it."""
    group = typer.Typer(invoke_without_command=True)
    group.callback()(doctor)
    app.add_typer(group, name="doctor")


def doctor(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Check this machine and say what to do; changes nothing. Exits with 1 when a check fails."""
    if ctx.invoked_subcommand is not None:
        return
    from orchestrator.runtime.doctor import Level, examine

    settings = settings_of(ctx)
    checks = []
    with Console(stderr=True).status("Examining") as line:
        for check in examine(settings):
            checks.append(check)
            line.update(f"Examining: {check.name} {check.level}")
    failed = [check for check in checks if check.level is Level.FAIL]

    def human(console: Console) -> None:
        table = Table(box=None, show_header=False, pad_edge=False)
        for check in checks:
            table.add_row(f"[{_STYLES[check.level]}]{check.level}[/]", check.name, check.message)
            if check.fix is not None:
                table.add_row("", "", f"Fix: {check.fix}", style="dim")
        console.print(table, highlight=False)

    emit({"healthy": not failed, "checks": [check.to_dict() for check in checks]}, human, as_json=as_json)
    raise typer.Exit(1 if failed else 0)
