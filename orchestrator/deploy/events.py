"""What a run of playbooks says, folded into one result a host: pure, no input or output.

Events are those of ansible-runner (https://ansible.readthedocs.io/projects/runner/en/stable/intro/, "Runner
Artifact Job Events"). A task that fails inside a block with a ``rescue`` looks like one that fails: only the
statistics at the end tell, so `Journal.failures` is settled when they are there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from orchestrator.deploy.changes import Change, changes_of, items_of
from orchestrator.deploy.replies import reason_of, reply_of

Event = Mapping[str, Any]
StepKind = Literal["play", "task", "start", "ok", "changed", "skipped", "failed", "unreachable", "retry"]

_HOST_PROGRAM: Final = "host.pyz"
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_HIDDEN: Final = "a task that hides what it does"
_PREFLIGHT: Final = "preflight"
"""The role, or the file, of tasks that only look."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened, for whoever shows progress.

    Attributes:
        kind: ``play`` and ``task`` concern all hosts, the others one.
        task: its name; of a ``play`` the play's.
        host: None for ``play`` and ``task``.
        note: what there is to say, for example why it failed.
    """

    kind: StepKind
    task: str
    host: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a host failed.

    Attributes:
        host: its name in the inventory.
        task: the task, with its role.
        reason: one sentence or a few.
        fix: what the reader can do, None where nothing is known to help.
        unreachable: there was no connection.
        log: the host's last log lines, oldest first.
    """

    host: str
    task: str
    reason: str
    fix: str | None = None
    unreachable: bool = False
    log: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The failure as JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the host program: its arguments from the verb on, and its answer."""

    arguments: tuple[str, ...]
    reply: Mapping[str, Any]

    @property
    def verb(self) -> str:
        """The verb, empty where there is none."""
        return self.arguments[0] if self.arguments else ""

    def option(self, name: str) -> str | None:
        """The value of ``--name VALUE`` or ``--name=VALUE``, None where it was not given."""
        for index, argument in enumerate(self.arguments):
            if argument == f"--{name}":
                return self.arguments[index + 1] if index + 1 < len(self.arguments) else None
            if argument.startswith(f"--{name}="):
                return argument.partition("=")[2]
        return None


@dataclass(slots=True)
class HostResult:
    """What became of one host so far."""

    host: str
    ok: int = 0
    changed: int = 0
    skipped: int = 0
    touched: bool = False
    """Whether a task was begun that may change something."""
    changes: list[Change] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    seen: list[Failure] = field(default_factory=list)
    """Every failed task that was not to be ignored, rescued ones too."""

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return {
            "ok": self.ok,
            "changed": self.changed,
            "skipped": self.skipped,
            "changes": [change.to_dict() for change in self.changes],
        }


class Journal:
    """The fold: give it every event, ask it for results."""

    def __init__(self) -> None:
        self.hosts: dict[str, HostResult] = {}
        self._said: list[str] = []
        self._failed: frozenset[str] | None = None

    def apply(self, event: Event) -> Step | None:
        """Take one event in; what it means for progress, None for nothing."""
        kind = str(event.get("event", ""))
        data = event.get("event_data")
        data = data if isinstance(data, Mapping) else {}
        if kind == "playbook_on_play_start":
            return Step("play", str(data.get("play") or data.get("name") or ""))
        if kind == "playbook_on_task_start":
            return Step("task", _task_of(data))
        if kind == "playbook_on_stats":
            self._settle(data)
            return None
        if kind in ("verbose", "error", "warning", "deprecated"):
            self._said += _lines(str(event.get("stdout", "")))
            return None
        host = data.get("host")
        if not isinstance(host, str) or not kind.startswith("runner_on_"):
            return self._retry(data) if kind == "runner_retry" else None
        return self._on_host(kind, self.hosts.setdefault(host, HostResult(host)), data)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Why each failed host failed, in the order they did; rescued tasks count only until all is over."""
        found = [
            result.seen[-1]
            for result in self.hosts.values()
            if result.seen and (self._failed is None or result.host in self._failed)
        ]
        return tuple(found)

    @property
    def touched(self) -> tuple[str, ...]:
        """The hosts that a task may have changed."""
        return tuple(result.host for result in self.hosts.values() if result.touched)

    @property
    def changed(self) -> bool:
        """Whether anything changed, or would change."""
        return any(result.changed for result in self.hosts.values())

    def said(self, last: int = 20) -> tuple[str, ...]:
        """The last lines that Ansible printed outside of tasks: where it does not even start, the reason."""
        return tuple(self._said[-last:])

    def _settle(self, data: Mapping[str, Any]) -> None:
        """Take the statistics in: which failures count, and changes of tasks that hide what they do."""
        self._failed = frozenset(
            host for key in ("failures", "dark") for host, count in _table(data, key) if count
        )
        for name, count in _table(data, "changed"):
            host = self.hosts.get(name)
            if host is not None and isinstance(count, int) and count > host.changed:
                host.changes += [Change(_HIDDEN)] * (count - host.changed)
                host.changed = count

    def _retry(self, data: Mapping[str, Any]) -> Step:
        result = _result_of(data)
        note = f"attempt {result.get('attempts', '?')} of {result.get('retries', '?')}"
        return Step("retry", _task_of(data), str(data.get("host")), note)

    def _on_host(self, kind: str, host: HostResult, data: Mapping[str, Any]) -> Step | None:
        task, result = _task_of(data), _result_of(data)
        if kind == "runner_on_start":
            host.touched = host.touched or not _only_looks(data)
            return Step("start", task, host.host)
        if kind in ("runner_on_ok", "runner_on_failed", "runner_on_unreachable"):
            host.calls += _calls(result)
        if kind == "runner_on_ok":
            host.ok += 1
            if not result.get("changed"):
                return Step("ok", task, host.host)
            host.changed += 1
            host.changes += changes_of(task, result) or [Change(task)]
            return Step("changed", task, host.host)
        if kind == "runner_on_skipped":
            host.skipped += 1
            return Step("skipped", task, host.host)
        if kind not in ("runner_on_failed", "runner_on_unreachable"):
            return None
        if data.get("ignore_errors") or result.get("ignore_unreachable"):
            return Step("ok", task, host.host, "ignored")
        unreachable = kind == "runner_on_unreachable"
        reason, fix = reason_of(result, unreachable=unreachable)
        host.seen.append(Failure(host.host, task, reason, fix, unreachable))
        return Step("unreachable" if unreachable else "failed", task, host.host, reason)


def _calls(result: Mapping[str, Any]) -> list[Call]:
    found = []
    for item in items_of(result):
        command = item.get("cmd")
        words = command.split() if isinstance(command, str) else command
        if not isinstance(words, list):
            continue
        program = next((at for at, word in enumerate(words) if str(word).endswith(_HOST_PROGRAM)), None)
        reply = reply_of(item.get("stdout"))
        if program is None or reply is None:
            continue
        found.append(Call(_from_verb([str(word) for word in words[program + 1 :]]), reply))
    return found


def _from_verb(words: list[str]) -> tuple[str, ...]:
    """Without the host program's global options, which come before the verb."""
    while words and words[0].startswith("--"):
        takes_value = words[0] in ("--home", "--front-socket")
        words = words[2 if takes_value else 1 :]
    return tuple(words)


def _only_looks(data: Mapping[str, Any]) -> bool:
    path = str(data.get("task_path", ""))
    return (
        data.get("role") == _PREFLIGHT
        or f"/{_PREFLIGHT}" in path
        or str(data.get("task_action", "")).rpartition(".")[2] in ("setup", "gather_facts", "debug", "assert")
    )


def _task_of(data: Mapping[str, Any]) -> str:
    name = str(data.get("task") or data.get("name") or "")
    role = data.get("role")
    return f"{role}: {name}" if role and not name.startswith(f"{role} :") else name.replace(" : ", ": ", 1)


def _result_of(data: Mapping[str, Any]) -> Mapping[str, Any]:
    result = data.get("res")
    return result if isinstance(result, Mapping) else {}


def _table(data: Mapping[str, Any], key: str) -> list[tuple[str, int]]:
    table = data.get(key)
    return list(table.items()) if isinstance(table, Mapping) else []


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in _COLOUR.sub("", text).splitlines() if line.strip()]
