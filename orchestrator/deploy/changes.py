"""What a task's result says that it changed, or would change: pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that a task changed, or would change."""

    task: str
    path: str | None = None
    before: str | None = None
    after: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The change as JSON-ready data."""
        return asdict(self)


def changes_of(task: str, result: Mapping[str, Any]) -> list[Change]:
    """What a changed task's ``--diff`` says, one entry a file; a loop's items count one by one."""
    found = []
    for item in items_of(result):
        if not item.get("changed"):
            continue
        diffs = item.get("diff") or []
        for diff in [diffs] if isinstance(diffs, Mapping) else diffs:
            if not isinstance(diff, Mapping):
                continue
            before, after = diff.get("before"), diff.get("after")
            if before == after and "prepared" not in diff:
                continue
            path = next((text for text in _paths(diff, item) if text), None)
            found.append(Change(task, path, _short(before), _short(after if after is not None else "")))
        if not diffs and (path := next((text for text in _paths({}, item) if text), None)):
            found.append(Change(task, path))
    return found


def _paths(diff: Mapping[str, Any], item: Mapping[str, Any]) -> Iterator[str | None]:
    """Where a path may be said, the surest first."""
    after = diff.get("after")
    yield after.get("path") if isinstance(after, Mapping) else None
    invocation = item.get("invocation")
    given = invocation.get("module_args") if isinstance(invocation, Mapping) else None
    for source in (item, given if isinstance(given, Mapping) else {}):
        for key in ("dest", "path"):
            value = source.get(key)
            yield value if isinstance(value, str) else None
    header = diff.get("before_header")  # the one after names a file of the controller
    # Ansible appends words such as "(content)" to some.
    yield header.split(" (")[0] if isinstance(header, str) and header.startswith("/") else None


def _short(value: object) -> str | None:
    """A side of a difference as text; None where there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items() if key != "path")
    return str(value)


def items_of(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A loop's results, or the one result of a task that is none."""
    results = result.get("results")
    if isinstance(results, list):
        return [item for item in results if isinstance(item, Mapping)]
    return [result]
