"""Carrying a roll-out through: run it, and where it fails or is stopped, bring every host back.

The hosts end at one release: the new one everywhere, or on each what it served before. A host that cannot be
reached for the way back goes back by itself, when the timer that its ``begin`` armed is over. Once every host
has committed there is no way back: one that is out of reach by then would stay at the new release alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from orchestrator import resources
from orchestrator.deploy import connection, logs, runner
from orchestrator.deploy.events import Call, Failure, HostResult, Journal, Step
from orchestrator.deploy.inventory import Host, Inventory
from orchestrator.deploy.plan import Rollout
from orchestrator.deploy.runner import Play
from orchestrator.errors import DeployError, HostUnreachableError
from orchestrator.settings import DeploySettings

_LOG_LINES: Final = 20
"""Shown of each failed host, out of ten times as many."""
_PROBES: Final = '"route": "/v1/health/'
"""Requests of the front that come several times a second and say nothing about a failure."""
_LOG_TIMEOUT_S: Final = 10.0
_REVERT: Final = "revert.yml"


class Outcome(StrEnum):
    """How a roll-out ended."""

    DONE = "done"
    UNCHANGED = "unchanged"
    """Every host was as it should be."""
    FAILED = "failed"
    STOPPED = "stopped"


class Fate(StrEnum):
    """What became of a host after a roll-out that did not succeed."""

    UNTOUCHED = "untouched"
    REVERTED = "reverted"
    """It serves what it served before."""
    AS_BEFORE = "as before"
    """It had not begun to serve anything else."""
    COMMITTED = "committed"
    """It serves the new release; what failed came after that, such as giving the lock back."""
    LEFT = "left"
    """It could not be brought back from here: its timer does, if it began at all."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a roll-out did.

    Attributes:
        run: its id.
        release: the release it was to bring.
        outcome: how it ended.
        hosts: what was done on each.
        failures: why, of each host that failed; a host named ``-`` stands for the run as a whole.
        fates: what became of each host, where the outcome is not a success.
        revert_failures: why hosts could not be brought back.
    """

    run: str
    release: str
    outcome: Outcome
    hosts: tuple[HostResult, ...]
    failures: tuple[Failure, ...] = ()
    fates: dict[str, Fate] = field(default_factory=dict)
    revert_failures: tuple[Failure, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all hosts serve the release."""
        return self.outcome in (Outcome.DONE, Outcome.UNCHANGED)

    @property
    def left(self) -> tuple[str, ...]:
        """The hosts that their timers must bring back."""
        return tuple(host for host, fate in self.fates.items() if fate is Fate.LEFT)

    @property
    def clean(self) -> bool:
        """Whether no lock of this run can be left on a host."""
        return self.ok or not (
            self.left or any(failure.unreachable for failure in (*self.failures, *self.revert_failures))
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return {
            "run": self.run,
            "release": self.release,
            "outcome": str(self.outcome),
            "hosts": {result.host: result.to_dict() for result in self.hosts},
            "failures": [failure.to_dict() for failure in self.failures],
            "fates": {host: str(fate) for host, fate in self.fates.items()},
            "revert_failures": [failure.to_dict() for failure in self.revert_failures],
        }


@dataclass(frozen=True, slots=True)
class Watchers:
    """Who is told what happens, and who says when to stop.

    Attributes:
        on_step: hears each step.
        on_revert: told when the way back begins.
        should_stop: asked a few times a second during the roll-out; the way back is never stopped.
    """

    on_step: Callable[[Step], None] = lambda step: None
    on_revert: Callable[[], None] = lambda: None
    should_stop: Callable[[], bool] = lambda: False


def carry_out(
    rollout: Rollout,
    playbook: str,
    inventory: Inventory,
    settings: DeploySettings,
    watchers: Watchers,
) -> Report:
    """Run the playbook, and the way back where it does not succeed.

    Raises:
        DeployError, MissingDependencyError: Ansible cannot be run at all; nothing was changed.
    """
    play = play_of(rollout, playbook, inventory, settings)
    journal, broken = Journal(), None
    try:
        outcome = run_play(play, journal, watchers.on_step, watchers.should_stop)
    except DeployError as error:
        if not journal.touched:
            raise
        outcome, broken = runner.Outcome(rc=1), Failure("-", "running Ansible", error.message, error.fix)
    results = tuple(journal.hosts.values())
    if outcome.ok:
        ended = Outcome.DONE if journal.changed else Outcome.UNCHANGED
        return Report(rollout.run, _release(rollout), ended, results)
    found = failures_of(journal, outcome) if broken is None else (broken,)
    failures = with_logs(found, inventory, settings)
    fates = dict.fromkeys(rollout.hosts, Fate.UNTOUCHED)
    revert_failures: tuple[Failure, ...] = ()
    if committed_everywhere(rollout.hosts, journal):
        asyncio.run(unlock(rollout.run, inventory.hosts, settings))
        fates = dict.fromkeys(rollout.hosts, Fate.COMMITTED)
    elif journal.touched:
        watchers.on_revert()
        back, revert_failures = _bring_back(play, watchers)
        fates = fates_of(rollout.hosts, journal.touched, back, revert_failures)
    ended = Outcome.STOPPED if outcome.stopped else Outcome.FAILED
    return Report(rollout.run, _release(rollout), ended, results, failures, fates, revert_failures)


def committed_everywhere(hosts: Sequence[str], journal: Journal) -> bool:
    """Whether the new release is every host's known good one now, as the hosts themselves have said.

    A host that served it before the run has nothing to commit; one at least had.
    """

    def said(host: str, verb: str) -> list[Call]:
        calls = journal.hosts[host].calls if host in journal.hosts else []
        return [call for call in calls if call.verb == verb and "error" not in call.reply]

    committed = [host for host in hosts if said(host, "commit")]
    served = [host for host in hosts if any(not call.reply.get("changed") for call in said(host, "begin"))]
    return bool(committed) and set(committed) | set(served) >= set(hosts)


async def unlock(run: str, hosts: Sequence[Host], settings: DeploySettings) -> None:
    """Give the run's locks back where the hosts can be reached; any other expires."""

    async def one(host: Host) -> None:
        with suppress(HostUnreachableError):
            await connection.ask(
                host,
                connection.host_program(host, "lock", "release", "--run", run),
                timeout_s=settings.status_timeout_s,
                connect_timeout_s=settings.connect_timeout_s,
            )

    await asyncio.gather(*(one(host) for host in hosts))


def _bring_back(play: Play, watchers: Watchers) -> tuple[Journal, tuple[Failure, ...]]:
    """The way back of every host of a run, and why some did not come back."""
    back = Journal()
    way_back = replace(play, playbook=resources.playbooks() / _REVERT)
    try:
        outcome = run_play(way_back, back, watchers.on_step, lambda: False)
    except DeployError as error:
        return back, (Failure("-", "running Ansible", error.message, error.fix),)
    return back, not_brought_back(back, outcome)


def try_out(
    rollout: Rollout,
    playbook: str,
    inventory: Inventory,
    settings: DeploySettings,
    watchers: Watchers,
) -> tuple[Journal, tuple[Failure, ...]]:
    """Run the playbook with ``--check --diff``: what it would change, and why it could not.

    Raises:
        DeployError, MissingDependencyError: Ansible cannot be run at all.
    """
    play = replace(play_of(rollout, playbook, inventory, settings), check=True)
    journal = Journal()
    outcome = run_play(play, journal, watchers.on_step, watchers.should_stop)
    return journal, () if outcome.ok else failures_of(journal, outcome)


def play_of(rollout: Rollout, playbook: str, inventory: Inventory, settings: DeploySettings) -> Play:
    """The playbook of this package as a play over the roll-out's hosts."""
    return Play(
        playbook=resources.playbooks() / playbook,
        inventory=inventory.path,
        variables=rollout.variables,
        limit=rollout.limit,
        vault_password_file=settings.vault_password_file,
        forks=settings.forks,
        connect_timeout_s=settings.connect_timeout_s,
    )


def failures_of(journal: Journal, outcome: runner.Outcome) -> tuple[Failure, ...]:
    """Why a run failed: its hosts' failures, or what Ansible said where no host got to fail."""
    if journal.failures:
        return journal.failures
    if outcome.stopped:
        return ()
    said = journal.said()
    reason = "\n".join(said) or f"ansible-playbook ended with exit code {outcome.rc} and said nothing"
    return (Failure("-", "start of the run", reason, "correct what it names, and run it again"),)


def not_brought_back(back: Journal, outcome: runner.Outcome) -> tuple[Failure, ...]:
    """Why hosts could not be brought back; the way back passes over those that it cannot reach."""
    silent = [
        result.seen[-1]
        for result in back.hosts.values()
        if any(failure.unreachable for failure in result.seen)
    ]
    failed = () if outcome.ok else failures_of(back, outcome)
    return (*failed, *(failure for failure in silent if failure not in failed))


def fates_of(
    hosts: Sequence[str], touched: Sequence[str], back: Journal, failures: Sequence[Failure]
) -> dict[str, Fate]:
    """What became of each host, from the events of the way back and its failures."""
    failed = {failure.host for failure in failures}
    fates = {}
    for host in hosts:
        result = back.hosts.get(host)
        reverts = [] if result is None else [call for call in result.calls if call.verb == "revert"]
        if result is None or "-" in failed or host in failed:
            fates[host] = Fate.LEFT if host in touched else Fate.UNTOUCHED
        elif any(call.reply.get("changed") for call in reverts):
            fates[host] = Fate.REVERTED
        else:
            fates[host] = Fate.AS_BEFORE if host in touched else Fate.UNTOUCHED
    return fates


def with_logs(
    failures: Sequence[Failure], inventory: Inventory, settings: DeploySettings
) -> tuple[Failure, ...]:
    """The failures with the last lines of their hosts' logs, as they are before the way back."""
    wanted = [
        host
        for host in inventory.hosts
        if any(failure.host == host.name and not failure.unreachable for failure in failures)
    ]
    lines = asyncio.run(_last_lines(wanted, settings)) if wanted else []
    said = [line for line in lines if _PROBES not in line.message]
    return tuple(replace(failure, log=_log_of(failure.host, said)) for failure in failures)


def _log_of(host: str, lines: Sequence[logs.Line]) -> tuple[str, ...]:
    chosen = logs.telling([line for line in lines if line.host == host], _LOG_LINES)
    return tuple(f"{line.time:%H:%M:%S} {line.unit}: {line.message}" for line in chosen)


async def _last_lines(hosts: Sequence[Host], settings: DeploySettings) -> list[logs.Line]:
    query = logs.Query(lines=10 * _LOG_LINES)
    lines, _ = await logs.collect(
        hosts, query, timeout_s=_LOG_TIMEOUT_S, connect_timeout_s=settings.connect_timeout_s
    )
    return lines


def run_play(
    play: Play, journal: Journal, on_step: Callable[[Step], None], should_stop: Callable[[], bool]
) -> runner.Outcome:
    """Run a playbook and fold its events into ``journal``; ``on_step`` hears what they mean."""

    def on_event(event: runner.Event) -> None:
        step = journal.apply(event)
        if step is not None:
            on_step(step)

    return runner.run(play, on_event, should_stop)


def _release(rollout: Rollout) -> str:
    return str(rollout.variables.get("spark_speech_release", ""))
