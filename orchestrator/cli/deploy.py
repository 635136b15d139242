"""``spark-speech deploy``: bring a release to the hosts of an inventory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

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

if TYPE_CHECKING:
    from orchestrator.deploy.inventory import Inventory
    from orchestrator.deploy.plan import Rollout
    from orchestrator.settings import Settings

_PLAYBOOK: Final = "site.yml"


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("deploy")(deploy)


def deploy(
    ctx: typer.Context,
    release: Annotated[
        str, typer.Argument(help="Release id, or the beginning of one.", metavar="[RELEASE]")
    ] = "current",
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Say what would change on each host, and change nothing.")
    ] = False,
    canary: Annotated[
        str | None,
        typer.Option(
            "--canary",
            metavar="HOST",
            help="The host that gets it first; deploy.canary by default.",
            show_default=False,
        ),
    ] = None,
    limit: LimitOption = None,
    inventory: InventoryOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Bring a release to the hosts: the canary first, then the others, and all of them back where one fails.

    Exit codes: 0 done, or nothing to do; 1 failed, every host is back at what it served before; 130 stopped,
    likewise. With --plan: 0 no change, 2 changes, 1 it cannot be done.
    """
    from orchestrator.deploy import plan
    from orchestrator.deploy.rollout import carry_out
    from orchestrator.deploy.runs import registered
    from orchestrator.repository.release import ReleaseStore

    settings = settings_of(ctx)
    chosen = ReleaseStore(settings.paths.home).find(release)
    hosts = inventory_of(settings, inventory, limit)
    run, owner = new_run()
    with registered(settings.paths.home, run) as own:
        rollout = plan.rollout(
            settings.deploy,
            hosts.names,
            run=run,
            owner=owner,
            release=chosen.id,
            extra={
                "spark_speech_releases_dir": str(chosen.folder.parent),
                "spark_speech_take_over": list(own.dead),
            },
            canary=canary,
            limit=limit,
        )
        if plan_only:
            own.clean = True  # it takes no lock
            _show_plan(rollout, hosts, settings, as_json=as_json)
            return
        with watching(rollout) as watchers:
            report = carry_out(rollout, _PLAYBOOK, hosts, settings.deploy, watchers)
        own.clean = report.clean
        own.settled = report.ok and limit is None
    data, human = shown(report)
    emit(data, human, as_json=as_json)
    raise typer.Exit(exit_code(report))


def _show_plan(rollout: Rollout, hosts: Inventory, settings: Settings, *, as_json: bool) -> None:
    from orchestrator.deploy import plan
    from orchestrator.deploy.report import show_failures, show_plan
    from orchestrator.deploy.rollout import try_out

    release = str(rollout.variables["spark_speech_release"])
    with watching(rollout) as watchers:
        journal, failures = try_out(rollout, _PLAYBOOK, hosts, settings.deploy, watchers)
    plans = [plan.host_plan(journal.hosts[host], release) for host in rollout.hosts if host in journal.hosts]
    data = {
        "release": release,
        "hosts": {one.host: one.to_dict() for one in plans},
        "failures": [failure.to_dict() for failure in failures],
    }
    emit(
        data,
        lambda console: show_failures(failures, console) if failures else show_plan(plans, console),
        as_json=as_json,
    )
    raise typer.Exit(1 if failures else plan.exit_code(plans))
