"""Which files an audit reads: those of a folder, of a container's root, or of a running process."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orchestrator.coldstart.kernels import printable
from orchestrator.errors import AuditError

_SUFFIXES: Final = (".so", ".cubin", ".fatbin", ".ptx", ".o")
_LIBRARY: Final = re.compile(r"\.so(\.\d+)*$")
_MIN_BYTES: Final = 64
"""No ELF file is smaller."""
_NO_FILES: Final = frozenset({"proc", "sys", "dev"})
"""Folders of a root whose files are none."""
_DELETED: Final = " (deleted)"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may hold GPU code, or a part of an archive that is one.

    Attributes:
        path: where it can be opened.
        shown: what to call it.
        start: where it begins in ``path``, bytes.
        size: its length, None for all of ``path``.
    """

    path: str
    shown: str
    start: int = 0
    size: int | None = None


@dataclass(slots=True)
class Found:
    """What a source holds.

    Attributes:
        candidates: files to read.
        problems: folders and files that could not be looked at, one sentence each.
        environment: the process's variables, or an image's; None where the source says nothing of them.
    """

    candidates: list[Candidate] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    environment: dict[str, str] | None = None


def looks_like_root(folder: Path) -> bool:
    """Whether a folder is the root of a file system, as of an unpacked container."""
    return (folder / "usr").is_dir() and (folder / "etc").is_dir()


def of_path(path: Path) -> Found:
    """The candidates of a file or folder.

    Links are followed, each file is read once. Below the root of another file system they are not: they mean
    that root's files, which are found anyway.

    Raises:
        AuditError: there is nothing at ``path``.
    """
    found = Found()
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        raise AuditError(
            f"{printable(str(path))} cannot be audited: {error.strerror}",
            fix="name a file, a folder or an image",
        ) from error
    if not is_folder:
        found.candidates.append(Candidate(str(path), printable(str(path))))
        return found
    is_root = looks_like_root(path)
    _walk(path, found, follow=not is_root, skip=_NO_FILES if is_root else frozenset())
    found.candidates.sort(key=lambda candidate: candidate.shown)
    return found


def _walk(top: Path, found: Found, *, follow: bool, skip: frozenset[str]) -> None:
    seen: set[tuple[int, int]] = set()
    waiting, linked = deque([str(top)]), deque[str]()
    while waiting or linked:
        folder = (waiting or linked).popleft()
        try:
            status = Path(folder).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    if folder == str(top) and entry.name in skip:
                        continue
                    _sort_in(entry, found, (waiting, linked), seen, follow=follow)
        except OSError as error:
            found.problems.append(f"{printable(folder)} cannot be listed: {error.strerror}")


def _sort_in(
    entry: os.DirEntry[str],
    found: Found,
    folders: tuple[deque[str], deque[str]],
    seen: set[tuple[int, int]],
    *,
    follow: bool,
) -> None:
    if entry.is_symlink() and not follow:
        return
    try:
        if entry.is_dir():
            # Linked folders come last, so that a file is named by where it is and not by a link to it.
            folders[entry.is_symlink()].append(entry.path)
            return
        status = entry.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            found.problems.append(f"{printable(entry.path)} is a link that leads to itself")
        elif error.errno != errno.ENOENT:  # a link into nowhere is nobody's code
            found.problems.append(f"{printable(entry.path)} cannot be looked at: {error.strerror}")
        return
    if not stat.S_ISREG(status.st_mode) or not is_candidate(entry.name, status.st_mode, status.st_size):
        return
    if (status.st_dev, status.st_ino) not in seen:
        seen.add((status.st_dev, status.st_ino))
        found.candidates.append(Candidate(entry.path, printable(entry.path)))


def is_candidate(name: str, mode: int, size: int) -> bool:
    """Whether a file may hold GPU code, by its name, permissions and size in bytes."""
    named = name.endswith(_SUFFIXES) or _LIBRARY.search(name) is not None
    return size >= _MIN_BYTES and (named or bool(mode & 0o111))


def of_process(pid: int, proc: Path = Path("/proc")) -> Found:
    """The files that a running process has mapped, and its environment; in a container as outside.

    Args:
        pid: of the process.
        proc: the process file system.

    Raises:
        AuditError: there is no such process, or it is somebody else's.
    """
    home = proc / str(pid)
    try:
        maps = (home / "maps").read_bytes()
        variables = (home / "environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise AuditError(f"there is no process {pid}", fix="see `spark-speech status`") from error
    except OSError as error:
        raise AuditError(
            f"process {pid} cannot be read: {error.strerror}", fix="audit it as its user, or as root"
        ) from error
    found = Found(environment=parse_environment(variables))
    found.candidates.extend(dict.fromkeys(_mapped(maps, home)))
    return found


def _mapped(maps: bytes, home: Path) -> Iterator[Candidate]:
    deleted: set[str] = set()
    for line in maps.splitlines():
        fields = line.split(None, 5)
        if len(fields) < 6 or not fields[5].startswith(b"/") or fields[4] == b"0":
            continue
        name = os.fsdecode(fields[5]).replace("\\012", "\n")
        if name.startswith(("/dev/", "/memfd:")):
            continue
        if name.endswith(_DELETED):
            # Replaced on disk since: the map itself still leads to what runs.
            if name not in deleted:
                deleted.add(name)
                yield Candidate(str(home / "map_files" / os.fsdecode(fields[0])), printable(name))
            continue
        yield Candidate(f"{home}/root{name}", printable(name))


def parse_environment(data: bytes) -> dict[str, str]:
    """Variables as ``/proc/<pid>/environ`` has them."""
    pairs = (os.fsdecode(line).partition("=") for line in data.split(b"\0") if b"=" in line)
    return {name: value for name, _, value in pairs}
