"""What the verbs for hosts share: the inventory, the run, and how it is shown. Imports nothing heavy."""

from __future__ import annotations

import getpass
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from orchestrator.errors import InventoryError
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from orchestrator.deploy.inventory import Inventory
    from orchestrator.deploy.plan import Rollout
    from orchestrator.deploy.rollout import Report, Watchers

InventoryOption = Annotated[
    Path | None,
    typer.Option(
        "--inventory",
        "-i",
        metavar="FILE",
        help="Ansible inventory; deploy.inventory by default.",
        show_default=False,
    ),
]
LimitOption = Annotated[
    str | None,
    typer.Option(
        "--limit", metavar="HOSTS", help="Only these hosts, an Ansible pattern.", show_default=False
    ),
]
STOPPED: Final = 130
"""128 + SIGINT, as shells have it."""
TIMERS: Final = (
    "Left as it is. Every host that was begun goes back by itself within spark_speech_confirm_s (900 s by "
    "default) of its begin; until then its lock keeps other machines out."
)


def inventory_of(settings: Settings, path: Path | None, limit: str | None) -> Inventory:
    """The hosts that a verb is about.

    Raises:
        InventoryError: none is named, or it cannot be used.
    """
    from orchestrator.deploy import inventory

    chosen = path or settings.deploy.inventory
    if chosen is None:
        raise InventoryError(
            "no inventory is named",
            fix="give --inventory FILE, or set deploy.inventory; playbooks/inventories has examples",
        )
    return inventory.read(
        chosen.expanduser().absolute(), limit=limit, vault_password_file=settings.deploy.vault_password_file
    )


def new_run() -> tuple[str, str]:
    """A new run's id, and who runs it."""
    from orchestrator.deploy import plan

    user = os.environ.get("SUDO_USER") or getpass.getuser()
    return (
        plan.run_id(datetime.now(UTC), secrets.token_hex(4)),
        plan.owner(user, socket.gethostname(), os.getpid()),
    )


@contextmanager
def watching(rollout: Rollout, left: str = TIMERS) -> Iterator[Watchers]:
    """Show a run's progress, and let Ctrl-C stop it in an orderly way; the second one leaves at once.

    Args:
        rollout: the run.
        left: what becomes of the hosts when it is left at once.
    """
    from orchestrator.deploy.interrupts import watched
    from orchestrator.deploy.report import RolloutView
    from orchestrator.deploy.rollout import Watchers

    told = False
    try:
        with watched() as interrupts, RolloutView(rollout.hosts) as view:

            def should_stop() -> bool:
                nonlocal told
                if interrupts.asked() and not told:
                    told = True
                    view.stopping()
                return interrupts.asked()

            yield Watchers(view.step, view.reverting, should_stop)
    except KeyboardInterrupt:
        Console(stderr=True).print(left, style="yellow", soft_wrap=True, highlight=False)
        raise


def exit_code(report: Report) -> int:
    """0 done, 1 failed, 130 stopped."""
    from orchestrator.deploy.rollout import Outcome

    if report.ok:
        return 0
    return STOPPED if report.outcome is Outcome.STOPPED else 1


def shown(report: Report) -> tuple[dict[str, Any], Callable[[Console], None]]:
    """A report as JSON-ready data, and what prints it for people."""
    from orchestrator.deploy.report import show_report

    return report.to_dict(), lambda console: show_report(report, console)
