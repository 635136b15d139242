"""Where things are on a host."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.errors import ConfigurationError

HOME: Final = Path("/var/lib/spark-speech")
FRONT_SOCKET: Final = Path("/run/spark-speech/front.sock")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,127}")


@dataclass(frozen=True)
class Layout:
    """The folders and files below ``home``, and the front's socket."""

    home: Path = HOME
    front_socket: Path = FRONT_SOCKET

    @property
    def deploy(self) -> Path:
        """The host program's own files."""
        return self.home / "deploy"

    @property
    def state(self) -> Path:
        """What serves, and the transaction."""
        return self.deploy / "state.json"

    @property
    def lock(self) -> Path:
        """Which deployment has the host."""
        return self.deploy / "lock.json"

    @property
    def guard(self) -> Path:
        """Held by a verb while it changes something: no two at once."""
        return self.deploy / ".guard"

    @property
    def front_state(self) -> Path:
        """HAProxy's server states, read when it starts."""
        return self.deploy / "front.state"

    @property
    def footprints(self) -> Path:
        """How much memory each slot took when it was started."""
        return self.deploy / "footprints.json"

    @property
    def reserve(self) -> Path:
        """Space that a revert takes when the disk is full."""
        return self.deploy / ".reserve"

    @property
    def releases(self) -> Path:
        """The releases, by id."""
        return self.home / "releases"

    @property
    def environments(self) -> Path:
        """The Python environments, by digest."""
        return self.home / "environments"

    @property
    def images(self) -> Path:
        """What goes with each Docker image, by digest."""
        return self.home / "images"

    def runtime_of(self, digest: str) -> str:
        """What runs the environment or image of this digest: ``systemd`` or ``container``."""
        return "container" if (self.images / digest).is_dir() else "systemd"

    @property
    def gpu_cache(self) -> Path:
        """Compiled GPU code, by the digest of the environment or image."""
        return self.home / "cache" / "gpu"

    def slot(self, name: str) -> Path:
        """A slot's folder."""
        return self.home / "slots" / name


def checked_name(name: str, what: str) -> str:
    """``name``, if it can be part of a path and of a unit's name.

    Raises:
        ConfigurationError: it cannot.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(
            f"{name!r} is no {what}", fix="letters, digits and . _ : + - only, at most 128 of them"
        )
    return name
