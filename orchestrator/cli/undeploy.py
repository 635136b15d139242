"""``spark-speech undeploy``: take everything away from the hosts again."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.common import JsonFlag, emit, settings_of
from orchestrator.cli.hosts import InventoryOption, LimitOption, inventory_of, new_run, watching
from orchestrator.errors import ConfigurationError


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("undeploy")(undeploy)


def undeploy(
    ctx: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    keep_releases: Annotated[bool, typer.Option("--keep-releases", help="Leave the releases there.")] = False,
    limit: LimitOption = None,
    inventory: InventoryOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Stop the service on the hosts and delete all that was deployed. There is no way back but `deploy`."""
    from orchestrator.deploy.report import show_failures
    from orchestrator.deploy.undeploy import removal, take_away

    settings = settings_of(ctx)
    hosts = inventory_of(settings, inventory, limit)
    if not yes:
        if as_json:
            raise ConfigurationError("undeploy asks first", fix="give --yes with --json.")
        typer.confirm(f"Delete the service and its releases from {', '.join(hosts.names)}?", abort=True)
    run, owner = new_run()
    rollout = removal(hosts.names, run=run, owner=owner, limit=limit, keep_releases=keep_releases)
    with watching(rollout, "Left as it is: run undeploy again.") as watchers:
        result = take_away(rollout, hosts, settings.deploy, watchers)
    emit(
        result.to_dict(),
        lambda console: (
            show_failures(result.failures, console)
            if result.failures
            else console.print(f"Nothing of it is left on {', '.join(hosts.names)}.", highlight=False)
        ),
        as_json=as_json,
    )
    raise typer.Exit(0 if result.ok else 1)
