"""What a Python environment holds, as one digest: the same packages at the same place, the same digest.

The place is part of it, since a virtual environment's programs name their own folder.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from orchestrator.errors import RepositoryError


def fingerprint(environment: Path) -> str:
    """The sha256 over the environment's place, its Python, and every installed package's list of files.

    Raises:
        RepositoryError: there is no such environment, or it has no ``spark-speech``.
    """
    if not (environment / "bin" / "spark-speech").is_file():
        raise RepositoryError(
            "this is no Python environment with spark-speech in it: bin/spark-speech is missing",
            path=environment,
            fix="install spark-speech[serve,gateway] there, or name another folder",
        )
    digest = hashlib.sha256(str(environment).encode())
    digest.update(_content(environment / "pyvenv.cfg"))
    for package in sorted(environment.glob("lib/python3*/site-packages/*.dist-info")):
        digest.update(package.name.encode())
        digest.update(hashlib.sha256(_content(package / "RECORD")).digest())
    return digest.hexdigest()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise RepositoryError(
            f"cannot read: {error.strerror}", path=path, fix="check the environment's permissions"
        ) from error
