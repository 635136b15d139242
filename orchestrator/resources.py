"""Files that are not Python and that the package works with, wherever it is installed.

In a checkout (or an editable install) they lie beside the package; an installed wheel carries copies of them
in ``orchestrator/_data``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from orchestrator.errors import ConfigurationError

_PACKAGE: Final = Path(__file__).resolve().parent
_EXAMPLE_CONFIG: Final = "docs/spark-speech.example.toml"


def data_root(package: Path) -> Path:
    """The folder that holds the data of the package installed at ``package``."""
    packaged = package / "_data"
    return packaged if packaged.is_dir() else package.parent


def model_repository() -> Path:
    """The Triton model repository in source: one folder a model."""
    return _existing("model_repository")


def playbooks() -> Path:
    """The Ansible playbooks, roles and inventories."""
    return _existing("playbooks")


def compose() -> Path:
    """The Dockerfiles and compose files."""
    return _existing("compose")


def example_config() -> Path:
    """The documented settings file with every key at its default."""
    return _existing(_EXAMPLE_CONFIG)


def _existing(name: str) -> Path:
    path = data_root(_PACKAGE) / name
    if not path.exists():
        raise ConfigurationError(
            f"the installation is incomplete: {path} is missing",
            fix="install spark-speech again, from its wheel or with `pip install -e` in a checkout.",
            path=path,
        )
    return path
