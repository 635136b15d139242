"""``spark-speech rollback``: back to a release that the hosts served before."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import typer
from rich.console import Console

from orchestrator.cli.common import JsonFlag, emit, settings_of
from orchestrator.cli.hosts import (
    InventoryOption,
    LimitOption,
    exit_code,
    inventory_of,
    new_run,
    shown,
    watching,
)

_PLAYBOOK: Final = "rollback.yml"


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("rollback")(rollback)


def rollback(
    ctx: typer.Context,
    release: Annotated[
        str | None,
        typer.Argument(
            help="Release id, or the beginning of one; by default the one before what serves.",
            show_default=False,
        ),
    ] = None,
    limit: LimitOption = None,
    inventory: InventoryOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Go back to an earlier release, which passes the same gate; nothing is copied. Again undoes it.

    Exit codes: 0 done; 1 failed, every host is back at what it served before; 130 stopped, likewise.
    """
    from orchestrator.deploy import fleet_status, plan
    from orchestrator.deploy.rollback import target
    from orchestrator.deploy.rollout import carry_out
    from orchestrator.deploy.runs import registered

    settings = settings_of(ctx)
    hosts = inventory_of(settings, inventory, limit)
    with Console(stderr=True).status("Asking the hosts what they keep"):
        fleet = asyncio.run(
            fleet_status.ask_all(
                hosts.hosts,
                timeout_s=settings.deploy.status_timeout_s,
                connect_timeout_s=settings.deploy.connect_timeout_s,
            )
        )
    chosen = target(fleet.hosts, release)
    run, owner = new_run()
    with registered(settings.paths.home, run) as own:
        rollout = plan.rollout(
            settings.deploy,
            hosts.names,
            run=run,
            owner=owner,
            release=chosen,
            extra={"spark_speech_take_over": list(own.dead)},
            limit=limit,
        )
        with watching(rollout) as watchers:
            report = carry_out(rollout, _PLAYBOOK, hosts, settings.deploy, watchers)
        own.clean = report.clean
        own.settled = report.ok and limit is None
    data, human = shown(report)
    emit(data, human, as_json=as_json)
    raise typer.Exit(exit_code(report))
