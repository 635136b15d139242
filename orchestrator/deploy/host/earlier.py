"""The release that a rollback of this host goes to: chosen from its history, its digests recomputed."""

from __future__ import annotations

from typing import Any

from orchestrator.deploy.host import releases, status
from orchestrator.deploy.host.layout import Layout
from orchestrator.deploy.host.state import Entry, HostState
from orchestrator.errors import ReleaseNotFoundError


def earlier(layout: Layout, state: HostState, wanted: str = "") -> dict[str, Any]:
    """The entry to go back to, with the runtime that it ran with; how much of its release was read.

    Raises:
        ReleaseNotFoundError: nothing fits, or it is not on the disk any more.
        ReleaseCorruptError: names what of it is missing, altered, or should not be there.
    """
    entry = pick(state, wanted)
    return {**releases.verify(layout, entry.release), "entry": status.entry_to_dict(layout, entry)}


def pick(state: HostState, wanted: str = "") -> Entry:
    """The newest entry of the history that fits; only what was committed passed its gate. Pure.

    Args:
        state: the host's.
        wanted: the beginning of a release's id; empty for any but the one that serves.

    Raises:
        ReleaseNotFoundError: none fits.
    """
    serving = None if state.serving is None else state.serving.release
    for entry in reversed(state.history):
        fits = entry.release.startswith(wanted) if wanted else entry.release != serving
        if entry.outcome == "committed" and fits:
            return entry
    raise ReleaseNotFoundError(
        f"the host has no known good release {wanted[:16] if wanted else 'before the one that it serves'}",
        fix="look at `spark-speech status` for its history, and name one of it",
    )
