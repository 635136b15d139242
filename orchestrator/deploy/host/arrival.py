"""A release that came from the controller: it gets its name once every digest was recomputed.

::

    <home>/incoming/releases/<id>/   being copied; laid out as a home of its own
    <home>/releases/<id>/            whole
"""

from __future__ import annotations

import os
from typing import Any, Final

from orchestrator.deploy.host import releases
from orchestrator.deploy.host.layout import Layout
from orchestrator.errors import ReleaseCorruptError
from orchestrator.repository.storage import remove_tree, storage_errors, sync_folder

INCOMING: Final = "incoming"
_ASIDE: Final = ".doomed-"
"""`prune` removes what has such a name, should this be cut off before it does."""


def publish(layout: Layout, release: str, *, check: bool) -> dict[str, Any]:
    """Verify a release that has arrived and move it to its place; one that is there whole is left alone.

    Raises:
        ReleaseNotFoundError: it has not arrived.
        ReleaseCorruptError: it is not what its manifest says; what arrived is removed.
        DiskFullError, RepositoryError: it cannot be moved.
    """
    if check:
        return {"changed": not releases.here(layout, release), "release": release}
    arrived = Layout(layout.home / INCOMING)
    if not releases.here(arrived, release) and releases.here(layout, release):
        return releases.verify(layout, release)
    try:
        found = releases.verify(arrived, release)
    except ReleaseCorruptError:
        remove_tree(arrived.releases / release)
        raise
    target = layout.releases / release
    with storage_errors(target):
        os.sync()  # the files first: a name must never stand for content that a power cut took
        layout.releases.mkdir(parents=True, exist_ok=True)
        if target.exists():  # damaged, or it would not have been copied again
            aside = target.with_name(f"{_ASIDE}{release}")
            remove_tree(aside)
            target.rename(aside)
            (arrived.releases / release).rename(target)
            remove_tree(aside)
        else:
            (arrived.releases / release).rename(target)
        sync_folder(layout.releases)
    remove_tree(layout.home / INCOMING)
    return {**found, "changed": True}
