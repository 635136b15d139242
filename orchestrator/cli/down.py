"""``spark-speech down``: stop the server."""

from __future__ import annotations

import typer
from rich.console import Console

from orchestrator.cli.common import JsonFlag, emit, settings_of


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("down")(down)


def down(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Stop the server; requests in flight are finished first. No error when none runs."""
    from orchestrator.errors import NotRunningError
    from orchestrator.runtime import server

    settings = settings_of(ctx)
    home = settings.paths.home
    try:
        with Console(stderr=True).status("Stopping the server"):
            stopped, killed = server.stop(home, timeout_s=settings.server.stop_timeout_s)
    except NotRunningError:
        emit(
            {"stopped": False, "pid": None, "killed": False},
            lambda console: console.print(f"No server runs from {home}.", soft_wrap=True, highlight=False),
            as_json=as_json,
        )
        return
    how = "Killed" if killed else "Stopped"
    emit(
        {"stopped": True, "pid": stopped.pid, "killed": killed},
        lambda console: console.print(f"{how} the server (pid {stopped.pid}).", highlight=False),
        as_json=as_json,
    )
