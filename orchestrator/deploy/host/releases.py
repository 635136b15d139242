"""Releases on a host: verified file by file, pointed at, and thinned out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.deploy.host import images
from orchestrator.deploy.host.layout import Layout
from orchestrator.deploy.host.state import Content, HostState
from orchestrator.errors import ReleaseCorruptError, ReleaseNotFoundError
from orchestrator.repository.integrity import content_digest, file_faults
from orchestrator.repository.storage import remove_tree, storage_errors, sync_folder

MANIFEST: Final = "manifest.json"
REPOSITORY: Final = "model_repository"
CURRENT: Final = "current"
_DOOMED: Final = ".doomed-"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FIX: Final = "deploy it again from the controller: damaged files are replaced"


@dataclass(frozen=True)
class Pruning:
    """What `prune` removes."""

    releases: tuple[str, ...]
    environments: tuple[str, ...]
    caches: tuple[str, ...]
    images: tuple[str, ...] = ()


def ids(layout: Layout) -> list[str]:
    """The ids of the releases here, newest first."""
    if not layout.releases.is_dir():
        return []
    found = [path.parent for path in layout.releases.glob(f"*/{MANIFEST}") if path.parent.name != CURRENT]
    found = [path for path in found if path.name[0] != "." and not path.is_symlink()]
    return [path.name for path in sorted(found, key=lambda path: (-_age_key(path), path.name))]


def here(layout: Layout, release: str) -> bool:
    """Whether a release of this id is on this host."""
    return _SHA256.fullmatch(release) is not None and (layout.releases / release / MANIFEST).is_file()


def require(layout: Layout, release: str) -> Path:
    """The folder of a release.

    Raises:
        ReleaseNotFoundError: it is not here.
    """
    folder = layout.releases / release
    if not here(layout, release):
        raise ReleaseNotFoundError(
            f"release {release[:16]} is not on this host", path=folder, fix="deploy it from the controller"
        )
    return folder


def verify(layout: Layout, release: str) -> dict[str, Any]:
    """Recompute every digest of a release; files and bytes that were read.

    Raises:
        ReleaseNotFoundError: it is not here.
        ReleaseCorruptError: names what is missing, altered, or should not be there.
    """
    folder = require(layout, release)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        content = {key: value for key, value in manifest.items() if key != "id"}
        digest = content_digest(content)
        files = [(str(row["path"]), str(row["sha256"]), int(row["size"])) for row in manifest["files"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ReleaseCorruptError(
            f"the manifest of release {release[:16]} cannot be read: {error!r}", path=folder, fix=_FIX
        ) from error
    if not release == manifest.get("id") == digest:
        raise ReleaseCorruptError(
            f"the manifest of release {release[:16]} was altered: its content gives {digest[:16]}",
            path=folder,
            fix=_FIX,
        )
    if any(name.startswith("/") or ".." in name.split("/") for name, _, _ in files):
        raise ReleaseCorruptError(
            f"the manifest of release {release[:16]} names files outside of it", path=folder, fix=_FIX
        )
    faults = file_faults(folder / REPOSITORY, files)
    if faults:
        raise ReleaseCorruptError(
            f"release {release[:16]} does not match its manifest: {'; '.join(faults)}", path=folder, fix=_FIX
        )
    return {"changed": False, "release": release, "files": len(files), "bytes": sum(row[2] for row in files)}


def current(layout: Layout) -> str | None:
    """The release that ``current`` points at."""
    link = layout.releases / CURRENT
    return link.readlink().name if link.is_symlink() else None


def point(layout: Layout, release: str) -> bool:
    """Point ``current`` at a release, in one step; whether that changed anything.

    Raises:
        ReleaseNotFoundError: it is not here.
    """
    require(layout, release)
    if current(layout) == release:
        return False
    with storage_errors(layout.releases):
        temporary = layout.releases / f".{CURRENT}-{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(release)
        temporary.replace(layout.releases / CURRENT)
        sync_folder(layout.releases)
    return True


def plan_pruning(
    state: HostState,
    found: Iterable[str],
    environments: Iterable[str],
    caches: Iterable[str],
    current_id: str | None,
    keep: int,
    found_images: Iterable[str] = (),
) -> Pruning:
    """What to remove so that ``keep`` releases stay; pure.

    Never removed: what a slot holds, the known good, what an open transaction goes back to, ``current``.
    The others stay in the order in which they served last, then newest first.

    Args:
        state: the host's state.
        found: ids of the releases on disk, newest first.
        environments, caches, found_images: digests on disk.
        current_id: what ``current`` points at.
        keep: how many releases stay at least.
    """
    contents: list[Content | None] = [*state.slots.values(), state.known_good]
    if state.transaction is not None:
        contents += [state.transaction.previous.content, state.transaction.previous.known_good]
    protected = {content.release for content in contents if content is not None}
    protected |= {current_id} if current_id is not None else set()
    on_disk = list(found)
    served = [entry.release for entry in reversed(state.history) if entry.outcome == "committed"]
    kept = [release for release in dict.fromkeys([*served, *on_disk]) if release in on_disk]
    kept.sort(key=lambda release: release not in protected)  # stable: the order above within each group
    stay = set(kept[: max(keep, 0)]) | protected
    used = {content.environment for content in contents if content is not None}
    used |= {entry.environment for entry in state.history if entry.release in stay}
    return Pruning(
        tuple(release for release in on_disk if release not in stay),
        tuple(sorted(set(environments) - used)),
        tuple(sorted(set(caches) - used)),
        tuple(sorted(set(found_images) - used)),
    )


def prune(layout: Layout, state: HostState, keep: int, *, check: bool) -> dict[str, Any]:
    """Remove releases, environments, images and compiled GPU code that nothing needs.

    ``left`` says why an image could not be removed: it is no failure of a deployment that somebody runs it.

    Raises:
        RepositoryError: something cannot be removed.
    """
    plan = plan_pruning(
        state,
        ids(layout),
        _names(layout.environments),
        _names(layout.gpu_cache),
        current(layout),
        keep,
        [name for name in _names(layout.images) if _SHA256.fullmatch(name)],
    )
    chosen = (
        *(layout.releases / name for name in plan.releases),
        *(layout.environments / name for name in plan.environments),
        *(layout.gpu_cache / name for name in plan.caches),
    )
    stuck: list[str] = []
    if not check:
        stuck = [why for name in plan.images if (why := images.remove(layout.images / name)) is not None]
        for folder in (layout.releases, layout.environments, layout.gpu_cache):
            for left in folder.glob(f"{_DOOMED}*"):  # by one that was cut off
                remove_tree(left)
        for path in chosen:
            doomed = path.with_name(_DOOMED + path.name)
            with storage_errors(path):
                if path.is_symlink():  # an environment that somebody else made: only the name was ours
                    path.unlink()
                    continue
                path.rename(doomed)  # never half a release under its own name
            remove_tree(doomed)
    return {
        "changed": bool(chosen) or len(plan.images) > len(stuck),
        "releases": list(plan.releases),
        "environments": list(plan.environments),
        "caches": list(plan.caches),
        "images": list(plan.images),
        "left": stuck,
    }


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return [path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]


def _age_key(folder: Path) -> float:
    try:
        return (folder / MANIFEST).stat().st_mtime
    except OSError:
        return 0.0
