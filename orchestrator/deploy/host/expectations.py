"""Which of a deployment's files and folders are not as they should be: one question for all of them.

A playbook asks this once and then only does what is needed, instead of one visit to the host for each.
"""

from __future__ import annotations

import grp
import hashlib
import pwd
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Expected:
    """One path as it should be; what is None may be anything.

    Attributes:
        path: where.
        state: ``directory``, ``file``, ``link`` or ``absent``.
        owner, group: by name.
        mode: octal, as in ``0755``.
        target: what a link holds, as it is written in it.
        sha256: of a file's content.
    """

    path: str
    state: str
    owner: str | None = None
    group: str | None = None
    mode: str | None = None
    target: str | None = None
    sha256: str | None = None


def unmet(given: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The paths that are not as they should be: ``{"changed": False, "unmet": […]}``.

    Raises:
        ConfigurationError: an entry cannot be understood.
    """
    try:
        wanted = [Expected(**entry) for entry in given]
    except TypeError as error:
        raise ConfigurationError(f"the expectations cannot be read: {error}") from error
    return {"changed": False, "unmet": [entry.path for entry in wanted if not holds(entry)]}


def holds(entry: Expected) -> bool:
    """Whether the path is as it should be; what cannot be read is not."""
    path = Path(entry.path)
    try:
        found = path.lstat()
        return (
            _kind(found.st_mode) == entry.state
            and entry.mode in (None, f"{stat.S_IMODE(found.st_mode):04o}")
            and entry.owner in (None, _name(pwd.getpwuid, found.st_uid))
            and entry.group in (None, _name(grp.getgrgid, found.st_gid))
            and (entry.target is None or str(path.readlink()) == entry.target)
            and (entry.sha256 is None or hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256)
        )
    except FileNotFoundError:
        return entry.state == "absent"
    except OSError:
        return False


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "link"
    return "directory" if stat.S_ISDIR(mode) else "file"


def _name(look_up: Any, number: int) -> str | None:
    try:
        return str(look_up(number)[0])
    except KeyError:
        return None
