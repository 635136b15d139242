"""Whether a start compiled anything: what lies in the folder of compiled code, before and after.

A start from a warm cache adds no file to it. Locks, indexes and temporary files come and go without anything
being compiled, and do not count.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import ConfigurationError
from orchestrator.repository.storage import storage_errors, write_atomic

SEAL: Final = "compiled.json"
"""Beside the caches: what was there when everything had been computed once."""
_NO_CODE: Final = (".lock", ".tmp", ".pid", ".log")
_INDEX: Final = "index"
"""The CUDA driver's own, rewritten at each use."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """Files of compiled code by their path below the cache, and their sizes in bytes."""

    files: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """All of them."""
        return sum(self.files.values())

    def since(self, before: Compiled) -> tuple[str, ...]:
        """The files that ``before`` did not have, or had with another size."""
        return tuple(sorted(name for name, size in self.files.items() if before.files.get(name) != size))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready figures, without the files."""
        return {"files": len(self.files), "bytes": self.total_bytes}


def look(cache: Path) -> Compiled:
    """What is in the cache now; nothing where there is no such folder.

    Raises:
        ConfigurationError: it cannot be read.
    """
    found: dict[str, int] = {}
    try:
        for path in sorted(cache.rglob("*")):
            name = path.relative_to(cache).as_posix()
            passing = path.suffix in _NO_CODE or path.name in (_INDEX, SEAL) or ".tmp" in path.name
            if not passing and path.is_file():
                found[name] = path.stat().st_size
    except FileNotFoundError:
        return look(cache)  # something was replaced while it was read
    except OSError as error:
        raise ConfigurationError(
            f"the cache {cache} cannot be read: {error.strerror}", path=cache, fix="ask as its owner or root."
        ) from error
    return Compiled(found)


def read_seal(cache: Path) -> Compiled | None:
    """What was there when the cache was last sealed; None where it was not, or by another version."""
    try:
        files = json.loads((cache / SEAL).read_text(encoding="utf-8"))["files"]
        return Compiled({str(name): int(size) for name, size in files.items()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def seal(cache: Path, now: Compiled) -> None:
    """Write down what is there.

    Raises:
        DiskFullError: no space left.
        RepositoryError: the folder cannot be written.
    """
    with storage_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        write_atomic(cache / SEAL, json.dumps({"files": now.files}, sort_keys=True).encode())
