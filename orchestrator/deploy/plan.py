"""What a roll-out will do, worked out before anything is done: pure.

Which hosts, in which order, with which variables; and, from the events of a run that changes nothing, what
would be different on each host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from orchestrator.deploy.changes import Change
from orchestrator.deploy.events import HostResult
from orchestrator.errors import InventoryError
from orchestrator.settings import DeploySettings

NO_CHANGE: Final = 0
CHANGES: Final = 2
"""Exit codes of ``deploy --plan``."""
ASPECTS: Final = ("release", "environment", "config")
"""What a slot is made of, each a digest; the host program compares them."""
_UNITS: Final = "/etc/systemd/system/"
_TOKEN_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Rollout:
    """One run over the hosts.

    Attributes:
        run: its id, unique among all runs.
        owner: who runs it, for the locks on the hosts.
        hosts: in the order they are changed, the canary first.
        variables: what the playbooks are given; never a secret.
        limit: host pattern for Ansible, None for the whole inventory.
    """

    run: str
    owner: str
    hosts: tuple[str, ...]
    variables: Mapping[str, Any]
    limit: str | None = None


def run_id(now: datetime, token: str) -> str:
    """A run's id: its time, for people, and a random token, so that no two are the same."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{token}"


def owner(user: str, machine: str, pid: int) -> str:
    """Who holds a lock, as a person will read it on another machine."""
    return f"{user}@{machine} (pid {pid})"


def in_order(hosts: Sequence[str], canary: str | None) -> tuple[str, ...]:
    """The hosts with the canary first, otherwise as the inventory has them.

    Raises:
        InventoryError: the canary is not among them.
    """
    if canary is None:
        return tuple(hosts)
    if canary not in hosts:
        raise InventoryError(
            f"the canary {canary!r} is not among the hosts of this run: {', '.join(hosts)}",
            fix="name one of them with --canary or deploy.canary, or leave it to the first",
        )
    return (canary, *(host for host in hosts if host != canary))


def rollout(
    settings: DeploySettings,
    hosts: Sequence[str],
    *,
    run: str,
    owner: str,
    release: str,
    extra: Mapping[str, Any] | None = None,
    canary: str | None = None,
    limit: str | None = None,
) -> Rollout:
    """The roll-out of a release.

    Args:
        settings: what is None there is left to the inventory and the playbooks.
        hosts: the hosts of this run, as the inventory has them.
        run: see `run_id`.
        owner: see `owner`.
        release: the whole id.
        extra: further variables.
        canary: stronger than the settings'.
        limit: the pattern ``hosts`` came from.

    Raises:
        InventoryError: the canary is not among the hosts.
    """
    # A canary of the settings that a limit leaves out is no error: the limit was given for this run.
    chosen = canary or (settings.canary if limit is None or settings.canary in hosts else None)
    ordered = in_order(hosts, chosen)
    variables = {
        "spark_speech_run": run,
        "spark_speech_owner": owner,
        "spark_speech_release": release,
        "spark_speech_canary": ordered[0],
        "spark_speech_serial": None if settings.batch is None else [1, settings.batch],
        "spark_speech_confirm_s": settings.confirm_s,
        "spark_speech_drain_s": settings.drain_s,
        **(extra or {}),
    }
    given = {name: value for name, value in variables.items() if value is not None}
    return Rollout(run, owner, ordered, given, limit)


@dataclass(frozen=True, slots=True)
class Difference:
    """One aspect of a host: what it is, and what it would be."""

    what: str
    before: str | None
    after: str | None

    def to_dict(self) -> dict[str, Any]:
        """The difference as JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class HostPlan:
    """What would be done to one host.

    Attributes:
        host: its name.
        slot: where the new server would run, None where nothing is started.
        mode: ``blue_green`` or ``in_place``; None where nothing is started.
        differences: release, environment, config and units that would be different.
        changes: everything else that would be changed.
    """

    host: str
    slot: str | None
    mode: str | None
    differences: tuple[Difference, ...]
    changes: tuple[Change, ...]

    @property
    def changed(self) -> bool:
        """Whether anything would be done."""
        return bool(self.differences or self.changes or self.slot)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready data."""
        return {
            "changed": self.changed,
            "slot": self.slot,
            "mode": self.mode,
            "differences": [difference.to_dict() for difference in self.differences],
            "changes": [change.to_dict() for change in self.changes],
        }


def host_plan(result: HostResult, release: str) -> HostPlan:
    """What a run that changed nothing says of a host: the host program's ``begin --check``, and the files.

    A host that has no host program yet has not been asked; it would get the release.
    """
    begin = next((call for call in reversed(result.calls) if call.verb == "begin"), None)
    differences: list[Difference] = []
    slot = mode = None
    if begin is not None and begin.reply.get("changed"):
        slot, mode = _text(begin.reply.get("slot")), _text(begin.reply.get("mode"))
        previous = begin.reply.get("previous")
        previous = previous if isinstance(previous, Mapping) else {}  # a host that served nothing has none
        for aspect in ASPECTS:
            before, after = _text(previous.get(aspect)), begin.option(aspect)
            if before != after:
                differences.append(Difference(aspect, before, after))
    if begin is None and result.changed:
        differences.append(Difference("release", None, release))
    units = [change for change in result.changes if change.path and change.path.startswith(_UNITS)]
    differences += [
        Difference(f"unit {str(unit.path).removeprefix(_UNITS)}", unit.before, unit.after) for unit in units
    ]
    others = tuple(change for change in result.changes if change not in units)
    return HostPlan(result.host, slot, mode, tuple(differences), others)


def exit_code(plans: Sequence[HostPlan]) -> int:
    """0 where no host would change, 2 where one would."""
    return CHANGES if any(plan.changed for plan in plans) else NO_CHANGE


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
