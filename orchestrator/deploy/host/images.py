"""Docker images on a host: the names by which slots call them, and taking old ones away.

The role ``image`` keeps a folder for each image, named by its digest, with what goes with it. Only names that
it gave are taken away here, and those that it pulled: an image that somebody else named stays.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from orchestrator.deploy.host import shell
from orchestrator.errors import HostError
from orchestrator.repository.storage import remove_tree, storage_errors

REPOSITORY: Final = "spark-speech"
BROUGHT: Final = "brought"
"""In an image's folder: the name by which a deployment pulled it."""


def remove(folder: Path) -> str | None:
    """Take an image away with its folder; why that is not possible yet, or None.

    Raises:
        RepositoryError: the folder cannot be removed.
    """
    try:
        names = _names(folder)
        if names:
            shell.run(["docker", "image", "rm", *names])
    except HostError as error:  # in use by somebody's container, or no daemon: it is tried again
        return error.message
    with storage_errors(folder):
        remove_tree(folder)
    return None


def parse_names(text: str, digest: str) -> list[str]:
    """Names of the image ``digest`` in lines of ``NAME ID``."""
    rows = (line.split() for line in text.splitlines())
    return [row[0] for row in rows if len(row) == 2 and row[1] == f"sha256:{digest}"]


def _names(folder: Path) -> list[str]:
    listed = shell.run(
        [
            "docker",
            "image",
            "ls",
            "--no-trunc",
            f"--filter=reference={REPOSITORY}:*",
            "--format={{.Repository}}:{{.Tag}} {{.ID}}",
        ]
    )
    names = parse_names(listed, folder.name)
    brought = folder / BROUGHT
    with storage_errors(brought, "read"):
        name = brought.read_text(encoding="utf-8").strip() if brought.exists() else ""
    if not name or name in names:
        return names
    found = shell.run(["docker", "image", "inspect", "--format={{.Id}}", name], check=False).strip()
    return [*names, name] if found == f"sha256:{folder.name}" else names
