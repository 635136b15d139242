"""``spark-speech logs``: the hosts' logs as one."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from orchestrator.cli.common import JsonFlag, report_failure, settings_of
from orchestrator.cli.hosts import InventoryOption, LimitOption, inventory_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.deploy.inventory import Host
    from orchestrator.deploy.logs import Line, Query
    from orchestrator.settings import DeploySettings

_TIMEOUT_S = 120.0
"""For one host's answer; a day's log is long."""


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("logs")(logs)


def logs(
    ctx: typer.Context,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME", help="'10m', '2026-01-31 09:00', 'yesterday'.", show_default=False
        ),
    ] = None,
    grep: Annotated[
        str | None,
        typer.Option("--grep", metavar="REGEX", help="Only messages that match.", show_default=False),
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Of each host, without --since.")] = 100,
    limit: LimitOption = None,
    inventory: InventoryOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the hosts' logs, merged; with --json one object a line. Exits with 1 when a host is silent."""
    from orchestrator.deploy.logs import Query

    settings = settings_of(ctx)
    hosts = inventory_of(settings, inventory, limit).hosts
    query = Query(since=since, grep=grep, lines=lines)
    write = _writer(hosts, as_json=as_json)
    if follow:
        asyncio.run(_follow(hosts, query, settings.deploy, write))
        return
    raise typer.Exit(asyncio.run(_show(hosts, query, settings.deploy, write)))


async def _show(
    hosts: Sequence[Host], query: Query, settings: DeploySettings, write: Callable[[Line], None]
) -> int:
    from orchestrator.deploy.logs import collect

    found, silent = await collect(
        hosts, query, timeout_s=_TIMEOUT_S, connect_timeout_s=settings.connect_timeout_s
    )
    for line in found:
        write(line)
    for error in silent:
        report_failure(error, as_json=False)
    return 1 if silent else 0


async def _follow(
    hosts: Sequence[Host], query: Query, settings: DeploySettings, write: Callable[[Line], None]
) -> None:
    """Until Ctrl-C, which is the ordinary end."""
    from orchestrator.deploy.logs import follow

    async def show() -> None:
        async with aclosing(follow(hosts, query, connect_timeout_s=settings.connect_timeout_s)) as lines:
            async for line in lines:
                write(line)

    showing = asyncio.create_task(show())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, showing.cancel)
    try:
        await showing
    except asyncio.CancelledError:
        return


def _writer(hosts: Sequence[Host], *, as_json: bool) -> Callable[[Line], None]:
    if as_json:

        def write_json(line: Line) -> None:
            sys.stdout.write(json.dumps(line.to_dict(), ensure_ascii=False) + "\n")
            sys.stdout.flush()

        return write_json
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(host.name) for host in hosts)
    colours = ("cyan", "magenta", "blue", "green", "yellow")
    styles = {host.name: colours[index % len(colours)] for index, host in enumerate(hosts)}

    def write(line: Line) -> None:
        style = "red" if line.priority <= 3 else "yellow" if line.priority == 4 else ""
        unit = "" if line.unit is None else f"{line.unit.removeprefix('spark-speech-')}: "
        console.print(
            Text.assemble(
                (f"{line.host:<{width}} ", styles[line.host]),
                (f"{line.time.astimezone():%m-%d %H:%M:%S} ", "dim"),
                (f"{unit}{line.message}", style),
            )
        )

    return write
