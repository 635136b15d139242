"""How a host is asked about itself: programs, files, sockets. Tests put recorded answers in place."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program said; ``code`` is None when it is not there or did not end in time."""

    code: int | None
    out: str
    err: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """How the host is asked; tests put recorded answers in place."""

    run: Callable[[Sequence[str]], Answer]
    read: Callable[[str], str]
    """The text of a file, empty where there is none."""
    exists: Callable[[str], bool]
    free_bytes: Callable[[Path], int]
    has: Callable[[str], bool]
    """Whether a program is on PATH."""
    owner: Callable[[int], str]
    """The control group of the process that holds the socket with this inode, empty when it has none."""
    machine: str
    now: float


def this_host() -> Probe:
    """How the machine that this runs on is asked."""
    return Probe(
        run=_run,
        read=_read,
        exists=lambda path: Path(path).exists(),
        free_bytes=lambda folder: shutil.disk_usage(folder).free,
        has=lambda name: shutil.which(name, path=_PATH) is not None,
        owner=_owner,
        machine=platform.machine(),
        now=time.time(),
    )


_PATH: Final = os.pathsep.join(
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
)
"""Where a service's programs lie, whatever PATH the login shell of the deployment's user has."""


def _run(command: Sequence[str]) -> Answer:
    try:
        ended = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Answer(None, "", str(error))
    return Answer(ended.returncode, ended.stdout, ended.stderr)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _owner(inode: int) -> str:
    wanted = f"socket:[{inode}]"
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(link.readlink()) == wanted for link in (folder / "fd").iterdir()):
                return _read(str(folder / "cgroup"))
        except OSError:  # ended meanwhile, or not ours to see
            continue
    return ""
