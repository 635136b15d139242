"""Which files a worker was started with, and which have changed since.

The modification times are looked at, a few hundred of them, which takes a millisecond or two: that needs no
further package, and works where the system's notifications do not (network and container file systems).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from orchestrator.errors import ConfigurationError

_KINDS: Final = (".py", ".html", ".css", ".js")
State = Mapping[Path, tuple[int, int]]
"""Of each file, when it was changed (ns) and how many bytes it has."""


class SourceWatch:
    """The source in a folder, and single files beside it, which need not exist."""

    def __init__(self, folder: Path, files: Sequence[Path] = ()) -> None:
        """Watch Python and the page's files in ``folder`` and below, and all of ``files``."""
        self._folder = folder
        self._files = tuple(files)

    def state(self) -> State:
        """How the files are now."""
        found: dict[Path, tuple[int, int]] = {}
        for path in (*_source(self._folder), *self._files):
            try:
                status = path.stat()
            except OSError:  # gone since it was listed, or never there
                continue
            found[path] = (status.st_mtime_ns, status.st_size)
        return found

    def shown(self, path: Path) -> str:
        """A file's name as messages have it."""
        return str(path.relative_to(self._folder)) if path.is_relative_to(self._folder) else str(path)


def changed(before: State, now: State) -> list[Path]:
    """Files that are new, gone or different, in order."""
    return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))


def check_syntax(paths: Sequence[Path]) -> None:
    """Make sure that the Python among ``paths`` can be compiled; files that are gone are left out.

    Raises:
        ConfigurationError: one cannot; the message has the file, the line and what is wrong.
    """
    for path in paths:
        if path.suffix != ".py":
            continue
        try:
            compile(path.read_bytes(), path, "exec", dont_inherit=True)
        except FileNotFoundError:
            continue
        except (SyntaxError, ValueError) as error:
            line = error.lineno if isinstance(error, SyntaxError) else None
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise ConfigurationError(
                f"{path}, line {line}: {reason}", fix="correct it; the next change is tried again.", path=path
            ) from error


def _source(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            if name.endswith(_KINDS):
                yield Path(place, name)
