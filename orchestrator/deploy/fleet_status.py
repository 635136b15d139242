"""How the hosts are: all asked at once, each for a bounded time; one that does not answer is a row too."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.deploy import connection
from orchestrator.deploy.connection import Answer
from orchestrator.deploy.inventory import Host
from orchestrator.deploy.replies import reply_of
from orchestrator.errors import HostUnreachableError
from orchestrator.runtime.status import Verdict


@dataclass(frozen=True, slots=True)
class HostStatus:
    """One host.

    Attributes:
        host: its name.
        verdict: healthy, degraded (it answers, and something is not as it should be), or unknown.
        reasons: why it is not healthy, one sentence each.
        fix: what to do about it, None where nothing is known to help.
        facts: what the host program's ``status`` said; empty where it did not.
    """

    host: str
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    fix: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def active(self) -> Mapping[str, Any]:
        """The slot that serves, empty where none does."""
        slots, name = self.facts.get("slots"), self.facts.get("active")
        found = slots.get(name) if isinstance(slots, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    @property
    def content(self) -> tuple[str, str] | None:
        """The release and the environment that serve, None where none do."""
        release, environment = self.active.get("release"), self.active.get("environment")
        return (str(release), str(environment)) if release else None

    @property
    def under_way(self) -> str | None:
        """The roll-out that has not ended here, None where there is none."""
        transaction = self.facts.get("transaction")
        if not isinstance(transaction, Mapping) or transaction.get("phase") in ("committed", "reverted"):
            return None
        return f"{transaction.get('run')} ({transaction.get('phase')})"

    @property
    def last(self) -> Mapping[str, Any]:
        """The end of the last roll-out here, empty where there was none."""
        history = self.facts.get("history")
        found = history[-1] if isinstance(history, list) and history else None
        return found if isinstance(found, Mapping) else {}

    def to_dict(self) -> dict[str, Any]:
        """The host as JSON-ready data."""
        return {
            "verdict": str(self.verdict),
            "reasons": list(self.reasons),
            "fix": self.fix,
            "release": self.active.get("release"),
            "environment": self.active.get("environment"),
            "slot": self.facts.get("active"),
            "models": self.active.get("models", []),
            "memory_bytes": self.active.get("memory_bytes"),
            "mem_available_bytes": self.facts.get("mem_available_bytes"),
            "drift": self.facts.get("drift", []),
            "last": dict(self.last) or None,
            "lock": self.facts.get("lock"),
            "under_way": self.under_way,
            "releases": self.facts.get("releases", []),
        }


@dataclass(frozen=True, slots=True)
class Fleet:
    """All hosts, in the inventory's order."""

    hosts: tuple[HostStatus, ...]

    @property
    def mixed(self) -> bool:
        """Whether hosts serve different releases or environments."""
        return len({host.content for host in self.hosts if host.content is not None}) > 1

    @property
    def split(self) -> str | None:
        """The run that some hosts committed and others left, in a mixed fleet; None where there is none.

        A cable that is cut while hosts commit does that: the others went back, and the one that was cut off
        cannot know it. No host goes back from what it has committed by itself, so the next run ends it.
        """
        outcomes: dict[str, set[str]] = {}
        for host in self.hosts:
            outcomes.setdefault(str(host.last.get("run")), set()).add(str(host.last.get("outcome")))
        found = [run for run, ends in outcomes.items() if ends >= {"committed", "reverted"}]
        return found[0] if self.mixed and found else None

    @property
    def verdict(self) -> Verdict:
        """Degraded where a host is, or they serve different things; else unknown where one is silent."""
        verdicts = {host.verdict for host in self.hosts}
        if Verdict.DEGRADED in verdicts or self.mixed:
            return Verdict.DEGRADED
        return Verdict.UNKNOWN if Verdict.UNKNOWN in verdicts or not verdicts else Verdict.HEALTHY

    def to_dict(self) -> dict[str, Any]:
        """The fleet as JSON-ready data."""
        return {
            "verdict": str(self.verdict),
            "mixed": self.mixed,
            "split": self.split,
            "hosts": {host.host: host.to_dict() for host in self.hosts},
        }


async def ask_all(hosts: Sequence[Host], *, timeout_s: float, connect_timeout_s: int) -> Fleet:
    """Ask every host at once; takes as long as the slowest, at most ``timeout_s`` and a little."""

    async def one(host: Host) -> HostStatus:
        try:
            answer = await connection.ask(
                host,
                connection.host_program(host, "status"),
                timeout_s=timeout_s,
                connect_timeout_s=connect_timeout_s,
            )
        except HostUnreachableError as error:
            return HostStatus(host.name, Verdict.UNKNOWN, (error.message,), error.fix)
        return status_of(host.name, answer)

    return Fleet(tuple(await asyncio.gather(*(one(host) for host in hosts))))


def status_of(host: str, answer: Answer) -> HostStatus:
    """What a host's answer to ``status`` means."""
    facts = reply_of(answer.stdout)
    if facts is None:
        if "can't open file" in answer.stderr or "No such file" in answer.stderr:
            return HostStatus(
                host, Verdict.DEGRADED, ("nothing was deployed to it",), "run `spark-speech deploy`"
            )
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.rc}"]
        return HostStatus(host, Verdict.UNKNOWN, (f"its host program failed: {lines[-1]}",))
    if answer.rc != 0:
        fix = facts.get("fix")
        message = str(facts.get("message", f"exit code {answer.rc}"))
        return HostStatus(host, Verdict.UNKNOWN, (message,), fix if isinstance(fix, str) else None)
    reasons = _reasons(facts)
    fix = "run `spark-speech deploy` again; `spark-speech logs` shows why" if reasons else None
    return HostStatus(host, Verdict.DEGRADED if reasons else Verdict.HEALTHY, reasons, fix, facts)


def _reasons(facts: Mapping[str, Any]) -> tuple[str, ...]:
    if facts.get("active") is None:
        return ("it serves nothing",)
    reasons = [str(text) for text in facts.get("drift") or ()]
    if not facts.get("healthy") and not reasons:
        reasons.append("the active slot is not ready")
    return tuple(reasons)
