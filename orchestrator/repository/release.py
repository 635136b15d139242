"""Releases on disk: written whole or not at all, found by id, verified file by file.

::

    <home>/releases/
        <id>/manifest.json
        <id>/model_repository/<model>/config.pbtxt
        <id>/model_repository/<model>/1/...
        <id>/checks.json        how far the release was checked; not part of its content
        current -> <id>         the release that `up` serves
        .staging/               half-written releases; swept by the next build
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import ReleaseCorruptError, ReleaseNotFoundError, RepositoryError
from orchestrator.repository import manifest as manifests
from orchestrator.repository.blobs import Blob
from orchestrator.repository.integrity import BYTECODE, file_faults
from orchestrator.repository.manifest import Manifest
from orchestrator.repository.storage import (
    exclusive,
    remove_tree,
    storage_errors,
    sync_folder,
    write_atomic,
)

REPOSITORY: Final = "model_repository"
_STAGING: Final = ".staging"
_CURRENT: Final = "current"
_CHECKS: Final = "checks.json"
_NO_LINK: Final = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}


@dataclass(frozen=True, slots=True)
class Release:
    """One release on this disk."""

    folder: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        """The release's id."""
        return self.manifest.id

    @property
    def model_repository(self) -> Path:
        """What tritonserver's ``--model-repository`` takes."""
        return self.folder / REPOSITORY

    @property
    def models(self) -> tuple[str, ...]:
        """The models' names."""
        return tuple(model.name for model in self.manifest.models)

    @property
    def built_at(self) -> datetime:
        """When it was written here, in UTC."""
        return datetime.fromtimestamp((self.folder / manifests.FILE_NAME).stat().st_mtime, UTC)

    @property
    def checks(self) -> dict[str, str]:
        """What was checked and how it went, for example ``{"load": "passed"}``."""
        try:
            found = json.loads((self.folder / _CHECKS).read_bytes())
        except (OSError, ValueError):
            return {}
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}

    def to_dict(self) -> dict[str, Any]:
        """The release as JSON-ready data."""
        return {
            "id": self.id,
            "folder": str(self.folder),
            "built_at": self.built_at.isoformat(timespec="seconds"),
            "target": self.manifest.target,
            "device": self.manifest.device,
            "models": [model.model_dump(mode="json") for model in self.manifest.models],
            "files": len(self.manifest.files),
            "bytes": self.manifest.total_bytes,
            "checks": self.checks,
        }


class ReleaseStore:
    """The releases under ``<home>/releases``."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "releases"

    @contextmanager
    def locked(self, *, wait_s: float = 3600.0, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Keep other builds out; sweeps what an interrupted one left.

        Raises:
            RepositoryError: another build went on for ``wait_s`` seconds.
        """
        with exclusive(self.folder / ".lock", wait_s=wait_s, on_wait=on_wait):
            remove_tree(self.folder / _STAGING)
            yield

    def publish(
        self,
        manifest: Manifest,
        files: Mapping[str, Blob],
        check: Callable[[Path], dict[str, str]] | None = None,
    ) -> Release:
        """Write a release: stage, check, rename. The caller holds `locked`.

        Args:
            manifest: what the release holds.
            files: a stored file for every path of the manifest.
            check: called with the staged release's folder; what it raises ends the build and leaves
                nothing; what it returns is kept as `Release.checks`.

        Raises:
            DiskFullError, RepositoryError: it cannot be written; nothing is left of it.
        """
        if {entry.path: entry.sha256 for entry in manifest.files} != {
            path: blob.sha256 for path, blob in files.items()
        }:
            raise RepositoryError("the files to publish are not those of the manifest")
        target = self.folder / manifest.id
        with storage_errors(target), self._staged() as staged:
            for path, blob in files.items():
                _place(blob.path, staged / REPOSITORY / path)
            write_atomic(staged / manifests.FILE_NAME, manifest.to_json().encode("utf-8"))
            checks = check(staged) if check is not None else {}
            _remove_bytecode(staged)
            write_atomic(staged / _CHECKS, json.dumps(checks).encode("utf-8"))
            for folder in (staged, *(path for path in staged.rglob("*") if path.is_dir())):
                sync_folder(folder)
            if target.exists():  # a damaged one: put aside first, for a rename cannot replace a folder
                target.rename(staged.with_name("replaced"))
            staged.rename(target)
            sync_folder(self.folder)
        return Release(target, manifest)

    def record_checks(self, release: Release, checks: Mapping[str, str]) -> None:
        """Keep what was found out about a release that is already there."""
        _remove_bytecode(release.folder)
        write_atomic(release.folder / _CHECKS, json.dumps(dict(checks)).encode("utf-8"))

    def activate(self, release_id: str) -> None:
        """Point ``current`` at the release, in one step.

        Raises:
            ReleaseNotFoundError: there is no such release.
        """
        release = self.find(release_id)
        with storage_errors(self.folder):
            temporary = self.folder / f".{_CURRENT}-{os.getpid()}"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(release.id)
            temporary.replace(self.folder / _CURRENT)
            sync_folder(self.folder)

    def ids(self) -> tuple[str, ...]:
        """The ids of all releases here, sorted; folders that are no releases are passed over."""
        if not self.folder.is_dir():
            return ()
        return tuple(
            sorted(
                path.name
                for path in self.folder.iterdir()
                if not path.is_symlink() and (path / manifests.FILE_NAME).is_file() and path.name[0] != "."
            )
        )

    def all(self) -> tuple[Release, ...]:
        """Every release whose manifest can be read, newest first."""
        found = []
        for release_id in self.ids():
            try:
                found.append(self._read(release_id))
            except ReleaseCorruptError:
                continue
        return tuple(sorted(found, key=lambda release: (release.built_at, release.id), reverse=True))

    def find(self, prefix: str) -> Release:
        """The release whose id starts with ``prefix``, or the ``current`` one.

        Raises:
            ReleaseNotFoundError: none, or more than one.
            ReleaseCorruptError: its manifest is damaged.
        """
        if prefix == _CURRENT:
            return self.current()
        fits = [name for name in self.ids() if prefix and name.startswith(prefix)]
        if len(fits) == 1:
            return self._read(fits[0])
        if fits:
            shown = ", ".join(name[:16] for name in fits)
            raise ReleaseNotFoundError(
                f"{prefix!r} fits {len(fits)} releases: {shown}", fix="give more of the id"
            )
        raise ReleaseNotFoundError(
            f"there is no release {prefix!r} in {self.folder}",
            fix="list them with `spark-speech releases`, or build one with `spark-speech build`",
        )

    def current(self) -> Release:
        """The release that ``current`` points at.

        Raises:
            ReleaseNotFoundError: nothing was built yet, or the release was deleted.
            ReleaseCorruptError: its manifest is damaged.
        """
        link = self.folder / _CURRENT
        if not link.is_symlink():
            raise ReleaseNotFoundError(
                f"no release is current in {self.folder}", fix="build one: spark-speech build"
            )
        name = link.readlink().name
        if name not in self.ids():
            raise ReleaseNotFoundError(
                f"the current release {name[:16]} is gone from {self.folder}",
                fix="build it again: spark-speech build",
            )
        return self._read(name)

    def current_id(self) -> str | None:
        """The id ``current`` points at, None where there is none."""
        link = self.folder / _CURRENT
        return link.readlink().name if link.is_symlink() else None

    def _read(self, release_id: str) -> Release:
        folder = self.folder / release_id
        manifest = manifests.load(folder / manifests.FILE_NAME)
        if manifest.id != release_id:
            raise ReleaseCorruptError(
                f"the folder holds release {manifest.id[:16]}, not its own name's",
                path=folder,
                fix="delete the folder and build again",
            )
        return Release(folder, manifest)

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        staging = self.folder / _STAGING
        staged = staging / "release"
        (staged / REPOSITORY).mkdir(parents=True)
        try:
            yield staged
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def verify(release: Release, on_bytes: Callable[[int], None] | None = None) -> None:
    """Recompute every digest; ``on_bytes`` hears the size of each piece read.

    Raises:
        ReleaseCorruptError: names the files that are missing, altered, or should not be there.
    """
    files = ((entry.path, entry.sha256, entry.size) for entry in release.manifest.files)
    faults = file_faults(release.model_repository, files, on_bytes)
    if faults:
        raise ReleaseCorruptError(
            f"release {release.id[:16]} does not match its manifest: {'; '.join(faults)}",
            path=release.folder,
            fix="build it again with `spark-speech build`: damaged files are replaced",
        )


def _place(source: Path, target: Path) -> None:
    """Hard-link ``source`` to ``target``; copy where the file system cannot."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(source, target)
        with target.open("rb") as written:
            os.fsync(written.fileno())


def _remove_bytecode(folder: Path) -> None:
    for path in list(folder.rglob(BYTECODE)):
        remove_tree(path)
