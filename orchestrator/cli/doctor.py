"""``spark-speech doctor``: is this machine fit to serve, or do hosts serve as they should?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from orchestrator.cli import doctor_kernels
from orchestrator.cli.common import JsonFlag, emit, settings_of
from orchestrator.cli.hosts import InventoryOption, inventory_of

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.runtime.doctor import Check
    from orchestrator.settings import Settings

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def register(app: typer.Typer) -> None:
    """Add the verb to the application; examinations of single things are verbs below it."""
    group = typer.Typer(invoke_without_command=True)
    group.callback()(doctor)
    doctor_kernels.register(group)
    app.add_typer(group, name="doctor")


def doctor(
    ctx: typer.Context,
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            metavar="HOSTS",
            help="Look at these hosts instead, an Ansible pattern such as 'all'.",
            show_default=False,
        ),
    ] = None,
    inventory: InventoryOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Check this machine and say what to do; changes nothing. Exits with 1 when a check fails.

    With --host: whether the hosts serve as they should, and their running servers keep compiled GPU code.
    """
    if ctx.invoked_subcommand is not None:
        return
    settings = settings_of(ctx)
    if host is not None or inventory is not None:
        _hosts(settings, inventory, host, as_json=as_json)
        return
    from orchestrator.runtime.doctor import examine

    checks = []
    with Console(stderr=True).status("Examining") as line:
        for check in examine(settings):
            checks.append(check)
            line.update(f"Examining: {check.name} {check.level}")
    emit(_report(checks), lambda console: _show(checks, console), as_json=as_json)
    raise typer.Exit(1 if _failed(checks) else 0)


def _hosts(settings: Settings, path: Path | None, pattern: str | None, *, as_json: bool) -> None:
    from orchestrator.deploy.host_doctor import examine

    hosts = inventory_of(settings, path, pattern)
    with Console(stderr=True).status(f"Examining {', '.join(hosts.names)}"):
        found = asyncio.run(
            examine(
                hosts.hosts,
                timeout_s=settings.deploy.status_timeout_s,
                connect_timeout_s=settings.deploy.connect_timeout_s,
            )
        )
    failed = any(_failed(checks) for checks in found.values())
    data = {"healthy": not failed, "hosts": {name: _report(checks) for name, checks in found.items()}}

    def human(console: Console) -> None:
        for name, checks in found.items():
            console.print(f"[bold]{name}[/]", highlight=False)
            _show(checks, console)

    emit(data, human, as_json=as_json)
    raise typer.Exit(1 if failed else 0)


def _failed(checks: Sequence[Check]) -> bool:
    return any(check.level == "fail" for check in checks)


def _report(checks: Sequence[Check]) -> Mapping[str, object]:
    return {"healthy": not _failed(checks), "checks": [check.to_dict() for check in checks]}


def _show(checks: Sequence[Check], console: Console) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        table.add_row(f"[{_STYLES[check.level]}]{check.level}[/]", check.name, check.message)
        if check.fix is not None:
            table.add_row("", "", f"Fix: {check.fix}", style="dim")
    console.print(table, highlight=False)
