"""What makes a release that release: digests of files, and of what its manifest says.

Standard library only: a host checks releases with these rules, without this package's dependencies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from orchestrator.repository.storage import CHUNK_BYTES

BYTECODE: Final = "__pycache__"
"""Python leaves it beside a model.py that was run; it is no part of a release."""


def sha256_of(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """The file's digest in hex; ``on_bytes`` hears the size of each piece read. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
    return digest.hexdigest()


def content_digest(content: Mapping[str, Any]) -> str:
    """The sha256 of JSON-ready data in canonical form: keys sorted, no white space."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def file_faults(
    folder: Path, files: Iterable[tuple[str, str, int]], on_bytes: Callable[[int], None] | None = None
) -> list[str]:
    """What below ``folder`` is missing, altered, or should not be there; empty when all is well.

    Args:
        folder: where the files are.
        files: path below the folder, sha256 and size in bytes of each file.
        on_bytes: hears the size of each piece read.
    """
    faults = []
    known = set()
    for name, sha256, size in files:
        known.add(name)
        path = folder / name
        try:
            if path.stat().st_size != size or sha256_of(path, on_bytes) != sha256:
                faults.append(f"{name} (altered)")
        except OSError:
            faults.append(f"{name} (missing or unreadable)")
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not path.is_dir() and BYTECODE not in relative.parts and relative.as_posix() not in known:
            faults.append(f"{relative.as_posix()} (not in the manifest)")
    return faults
