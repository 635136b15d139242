"""What people see of a roll-out: progress a host and task while it runs, then tables."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from orchestrator.deploy.events import Failure, Step
from orchestrator.deploy.fleet_status import Fleet, HostStatus
from orchestrator.deploy.plan import HostPlan
from orchestrator.deploy.rollout import Fate, Outcome, Report

_STYLES: Final = {"healthy": "green", "degraded": "red", "unknown": "yellow"}
_ID_DIGITS: Final = 12
_CHANGES_SHOWN: Final = 20


class RolloutView:
    """Progress on a terminal: one line a host that is rewritten, and a line that stays for each failure.

    Where the output is no terminal, each change and each failure is a line. A context manager.
    """

    def __init__(self, hosts: Sequence[str], console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._hosts = dict.fromkeys(hosts, "waiting")
        self._done = dict.fromkeys(hosts, 0)
        self._play = ""
        self._began = time.monotonic()
        self._live = Live(
            console=self._console, get_renderable=self._render, refresh_per_second=8, transient=True
        )

    def __enter__(self) -> RolloutView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def step(self, step: Step) -> None:
        """Take one step in."""
        if step.kind == "play":
            self._play = step.task
            self._say(f"[bold]{escape(step.task)}[/]")
        if step.host is None:
            return
        self._hosts.setdefault(step.host, "waiting")
        if step.kind == "start":
            self._hosts[step.host] = step.task
        elif step.kind == "retry":
            self._hosts[step.host] = f"{step.task}: {step.note}"
        else:
            self._done[step.host] = self._done.get(step.host, 0) + 1
        if step.kind in ("failed", "unreachable"):
            first = (step.note or "").splitlines()[:1]
            self._hosts[step.host] = f"{step.kind}: {step.task}"
            self._say(f"  [red]{escape(step.host)}: {escape(step.task)}: {escape(''.join(first))}[/]")
        elif step.kind == "changed":
            self._say(f"  {escape(step.host)}: {escape(step.task)} [yellow]changed[/]")

    def reverting(self) -> None:
        """Say that the way back begins."""
        self._hosts = dict.fromkeys(self._hosts, "waiting")
        self._say("[bold yellow]Bringing every host back to what it served before[/]")

    def stopping(self) -> None:
        """Say that the run is being stopped."""
        self._say(
            "[yellow]Stopping; then every host goes back to what it served before. Ctrl-C again leaves at "
            "once, and each host that was begun goes back by itself.[/]"
        )

    def _say(self, markup: str) -> None:
        self._console.print(markup, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        for host, doing in self._hosts.items():
            table.add_row(Text(host), Text(f"{self._done.get(host, 0)} done", style="dim"), Text(doing))
        head = f"{self._play or 'Starting'} ({time.monotonic() - self._began:.0f} s)"
        return Group(Spinner("dots", Text(head)), table)


def show_report(report: Report, console: Console) -> None:
    """The end of a roll-out."""
    release = report.release[:_ID_DIGITS]
    if report.outcome is Outcome.UNCHANGED:
        console.print(f"Every host serves {release} already; nothing was changed.", highlight=False)
    elif report.outcome is Outcome.DONE:
        hosts = ", ".join(result.host for result in report.hosts)
        console.print(f"[green]Done[/]: {release} serves on {hosts}.", highlight=False)
    else:
        show_failures(report.failures, console)
        _show_fates(report, console)


def show_failures(failures: Sequence[Failure], console: Console) -> None:
    """Each failure: host, task, reason, what to do, the host's last log lines."""
    for failure in failures:
        where = "The run" if failure.host == "-" else failure.host
        console.print(f"[red bold]{escape(where)}[/] failed at: {escape(failure.task)}", highlight=False)
        console.print(Text(failure.reason), soft_wrap=True)
        if failure.fix is not None:
            console.print(Text(f"Fix: {failure.fix}"), style="bold", soft_wrap=True)
        if failure.log:
            console.print(f"Last lines of {escape(failure.host)}'s log:", highlight=False)
            for line in failure.log:
                console.print(Text(f"  {line}"), style="dim", soft_wrap=True, highlight=False)


def _show_fates(report: Report, console: Console) -> None:
    how = "was stopped" if report.outcome is Outcome.STOPPED else "failed"
    if all(fate is Fate.UNTOUCHED for fate in report.fates.values()):
        console.print(f"The run {how} before anything was changed.", highlight=False)
        return
    console.print(f"The run {how}; what became of the hosts:", highlight=False)
    texts: Mapping[Fate, str] = {
        Fate.UNTOUCHED: "untouched",
        Fate.REVERTED: "[green]back at what it served before[/]",
        Fate.AS_BEFORE: "[green]serves what it served before[/]",
        Fate.COMMITTED: "[green]serves the new release[/]; only what comes after that failed",
        Fate.LEFT: "[red]not brought back from here[/]; if it was begun, its timer does it",
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for host, fate in report.fates.items():
        table.add_row(host, texts[fate])
    console.print(table, highlight=False)
    if report.left:
        show_failures(report.revert_failures, console)
        console.print(
            "Hosts not brought back revert by themselves within spark_speech_confirm_s (900 s by default) of "
            "their begin; `spark-speech status` shows when they have.",
            highlight=False,
            soft_wrap=True,
        )


def show_plan(plans: Sequence[HostPlan], console: Console) -> None:
    """What would be done, host by host."""
    if not any(plan.changed for plan in plans):
        console.print("No change: every host is as it should be.", highlight=False)
        return
    for plan in plans:
        if not plan.changed:
            console.print(f"[bold]{escape(plan.host)}[/]: no change", highlight=False)
            continue
        how = {"blue_green": "beside the old one", "in_place": "in place of the old one"}.get(plan.mode or "")
        slot = f": starts slot {plan.slot} {how}" if plan.slot and how else ""
        console.print(f"[bold]{escape(plan.host)}[/]{escape(slot)}", highlight=False)
        table = Table.grid(padding=(0, 1))
        for difference in plan.differences:
            table.add_row(
                f"  {escape(difference.what)}", _side(difference.before), "->", _side(difference.after)
            )
        for change in plan.changes[:_CHANGES_SHOWN]:
            table.add_row("  change", escape(change.path or change.task), "", "")
        if len(plan.changes) > _CHANGES_SHOWN:
            table.add_row("", f"and {len(plan.changes) - _CHANGES_SHOWN} more", "", "")
        console.print(table, highlight=False)


def show_fleet(fleet: Fleet, console: Console) -> None:
    """Every host a row, with what is wrong below it."""
    table = Table(box=None, pad_edge=False)
    for heading in ("Host", "Verdict", "Release", "Slot", "Models", "Memory", "Free", "Last roll-out"):
        table.add_column(heading, no_wrap=True)
    for host in fleet.hosts:
        table.add_row(*_row(host))
    console.print(table, highlight=False)
    for host in fleet.hosts:
        for reason in host.reasons:
            console.print(Text(f"{host.host}: {reason}"), soft_wrap=True)
        if host.fix is not None:
            console.print(Text(f"Fix: {host.fix}"), style="dim", soft_wrap=True)
        if host.under_way is not None:
            console.print(Text(f"{host.host}: under way: {host.under_way}"), soft_wrap=True)
    if fleet.mixed:
        console.print("[red]The hosts serve different things.[/]", highlight=False)
    if fleet.split is not None:
        said = f"Run {fleet.split} was committed on some hosts only. Fix: run `spark-speech deploy`."
        console.print(Text(said), soft_wrap=True)


def _row(host: HostStatus) -> tuple[str, ...]:
    models = [model for model in host.active.get("models") or () if isinstance(model, Mapping)]
    ready = sum(bool(model.get("ready")) for model in models)
    last = host.last
    return (
        escape(host.host),
        f"[{_STYLES.get(host.verdict, 'yellow')}]{host.verdict}[/]",
        str(host.active.get("release") or "-")[:_ID_DIGITS],
        str(host.facts.get("active") or "-"),
        f"{ready}/{len(models)} ready" if models else "-",
        _mib(host.active.get("memory_bytes")),
        _mib(host.facts.get("mem_available_bytes")),
        f"{str(last.get('at', ''))[:16].replace('T', ' ')} {last.get('outcome', '')}" if last else "-",
    )


def _side(value: str | None) -> str:
    if value is None:
        return "none"
    lines = value.splitlines()
    short = value if len(lines) <= 1 else f"{len(lines)} lines"
    return escape(short if len(short) <= 3 * _ID_DIGITS else f"{short[:_ID_DIGITS]}...")


def _mib(size: object) -> str:
    return f"{size / 1024**2:,.0f} MiB" if isinstance(size, int) and size > 0 else "-"
