"""``spark-speech status``: how the server is, or the hosts of an inventory."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from orchestrator.cli.common import JsonFlag, emit, settings_of
from orchestrator.cli.hosts import InventoryOption, LimitOption, inventory_of

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.runtime.status import ServerStatus
    from orchestrator.settings import Settings

_STYLES = {"healthy": "green", "starting": "yellow", "degraded": "red", "unknown": "red"}


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("status")(status)


def status(
    ctx: typer.Context,
    limit: LimitOption = None,
    inventory: InventoryOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the server, or with an inventory each host: release, models, memory, and what is amiss.

    Exit codes: 0 healthy, 1 starting or degraded, 2 cannot tell (none was started, or it does not answer).
    """
    settings = settings_of(ctx)
    if inventory is not None or limit is not None or settings.deploy.inventory is not None:
        _fleet(settings, inventory, limit, as_json=as_json)
        return
    from orchestrator.runtime import status as runtime

    found = runtime.status(settings.paths.home)
    emit(found.to_dict(), lambda console: _show(found, console), as_json=as_json)
    raise typer.Exit(found.verdict.exit_code)


def _fleet(settings: Settings, path: Path | None, limit: str | None, *, as_json: bool) -> None:
    from orchestrator.deploy.fleet_status import ask_all
    from orchestrator.deploy.report import show_fleet

    hosts = inventory_of(settings, path, limit)
    with Console(stderr=True).status(f"Asking {len(hosts.hosts)} hosts"):
        fleet = asyncio.run(
            ask_all(
                hosts.hosts,
                timeout_s=settings.deploy.status_timeout_s,
                connect_timeout_s=settings.deploy.connect_timeout_s,
            )
        )
    emit(fleet.to_dict(), lambda console: show_fleet(fleet, console), as_json=as_json)
    raise typer.Exit(fleet.verdict.exit_code)


def _show(found: ServerStatus, console: Console) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    verdict = f"[{_STYLES[found.verdict]}]{found.verdict}[/]"
    table.add_row("Server", verdict)
    state = found.state
    if state is not None:
        table.add_row("Release", "none" if state.release is None else state.release[:16])
        table.add_row("Triton", state.triton)
        table.add_row(
            "Address",
            f"{state.host}, gRPC {state.grpc_port}, HTTP {state.http_port}, metrics {state.metrics_port}",
        )
        if found.memory_bytes is not None:
            table.add_row("Process", f"pid {state.pid}, up {timedelta(seconds=round(state.uptime_s))}")
            table.add_row("Memory", f"{found.memory_bytes / 1024**2:.0f} MiB")
        for model in found.models:
            table.add_row(f"Model {model.name}", "[green]ready[/]" if model.ready else "[red]not ready[/]")
    console.print(table, highlight=False)
    if state is not None:
        console.print(f"Log: {state.log}", highlight=False, markup=False, soft_wrap=True)
    if found.reason is not None:
        console.print(found.reason, highlight=False, markup=False, soft_wrap=True)
