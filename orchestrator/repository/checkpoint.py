"""Whether a file is a whole NeMo checkpoint, told from its archive without loading NeMo."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from orchestrator.errors import ArtifactError

_NEEDED: Final = {"model_config.yaml", "model_weights.ckpt"}


def check_nemo(path: Path, source: str, model: str) -> None:
    """Read the archive's directory to its end; ``source`` and ``model`` name it in errors.

    Raises:
        ArtifactError: no tar archive, one that is cut short, or one without a configuration and weights.
    """
    try:
        with tarfile.open(path) as archive:  # plain or gzip: NeMo has written both
            names = {PurePosixPath(member.name).name for member in archive if member.isfile()}
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise _broken(source, model, f"it is no tar archive, or cut short ({error})") from error
    missing = _NEEDED - names
    if missing:
        raise _broken(source, model, f"it lacks {', '.join(sorted(missing))}")


def _broken(source: str, model: str, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{source} is not a NeMo checkpoint: {reason}",
        model=model,
        fix="fetch or export the .nemo file again, or name another source",
    )
