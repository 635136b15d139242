"""A content-addressed store: each file under its own sha256, whole or not there at all.

``<root>/ab/abcdef...``; files are read-only because releases hard-link them. A file whose bytes no longer
match its name is deleted when it is found, so that the build fetches it again.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from orchestrator.errors import DigestMismatchError
from orchestrator.repository.integrity import sha256_of
from orchestrator.repository.storage import copy_stream, storage_errors, sync_folder

_MODE: Final = 0o444
_TEMPORARY: Final = ".incoming-"


@dataclass(frozen=True, slots=True)
class Blob:
    """One stored file."""

    sha256: str
    size: int
    path: Path


class BlobStore:
    """The files under ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path_of(self, sha256: str) -> Path:
        """Where the file with this digest is, or would be."""
        return self.root / sha256[:2] / sha256

    def find(self, sha256: str, on_bytes: Callable[[int], None] | None = None) -> Blob | None:
        """The stored file, read through to check its digest; None where there is none that is whole."""
        path = self.path_of(sha256)
        with storage_errors(path, "read"):
            try:
                whole = sha256_of(path, on_bytes) == sha256
            except FileNotFoundError:
                return None
            if not whole:
                path.unlink(missing_ok=True)
                return None
            return Blob(sha256, path.stat().st_size, path)

    def holds(self, sha256: str, size: int) -> bool:
        """Whether a file of this name and size is there; a quick look that reads nothing."""
        path = self.path_of(sha256)
        return path.is_file() and path.stat().st_size == size

    def add_bytes(self, data: bytes) -> Blob:
        """Store ``data``.

        Raises:
            DiskFullError, RepositoryError: see `storage.storage_errors`.
        """
        return self.add_stream(io.BytesIO(data))

    def add_stream(
        self,
        source: BinaryIO,
        *,
        expected: str | None = None,
        name: str = "",
        on_bytes: Callable[[int], None] | None = None,
    ) -> Blob:
        """Store all that ``source`` gives; ``expected`` is the sha256 it must have, ``name`` names it.

        Raises:
            DigestMismatchError: the bytes are not those of ``expected``; nothing is stored.
            DiskFullError, RepositoryError: see `storage.storage_errors`; nothing is stored.
        """
        digest = hashlib.sha256()

        def seen(chunk: bytes) -> None:
            digest.update(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))

        with storage_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.root, prefix=_TEMPORARY)
            try:
                with os.fdopen(handle, "wb") as sink:
                    copy_stream(source, sink, seen)
                    sink.flush()
                    os.fsync(sink.fileno())
                return self._keep(Path(temporary), digest.hexdigest(), expected, name)
            finally:
                Path(temporary).unlink(missing_ok=True)

    def adopt(self, file: Path, *, expected: str | None = None, name: str = "") -> Blob:
        """Move ``file``, on the same file system as the store, into it; raises as `add_stream`."""
        with storage_errors(file):
            return self._keep(file, sha256_of(file), expected, name)

    def sweep(self) -> None:
        """Delete what an interrupted build left half written. The caller holds the build lock."""
        if self.root.is_dir():
            for path in self.root.glob(f"{_TEMPORARY}*"):
                with storage_errors(path):
                    path.unlink(missing_ok=True)

    def _keep(self, file: Path, sha256: str, expected: str | None, name: str) -> Blob:
        if expected is not None and sha256 != expected:
            raise DigestMismatchError(
                f"{name or 'a file'} has sha256 {sha256}, not the pinned {expected}",
                fix="fetch it again; if it stays so, the source was changed: do not use it",
            )
        target = self.path_of(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        size = file.stat().st_size
        file.chmod(_MODE)
        file.replace(target)
        sync_folder(target.parent)
        return Blob(sha256, size, target)
