"""Models from a Hugging Face hub: a revision pinned to its commit, files resumed and checked.

What a commit holds never changes, so its list of files is kept under ``<cache>/hub`` and a second build of a
pinned revision asks nothing. A file half fetched stays under ``<cache>/partial`` and goes on from there, also
in another process (the hub library itself starts over). Large files are checked against the sha256 that the
hub states, small ones against their git blob id.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import (
    ArtifactError,
    DigestMismatchError,
    HubUnreachableError,
    MissingDependencyError,
)
from orchestrator.repository.blobs import Blob, BlobStore
from orchestrator.repository.hub_errors import hub_errors, offline_way
from orchestrator.repository.hub_transfer import TIMEOUT_S, OnBytes, transfer
from orchestrator.repository.sources import DEFAULT_REVISION, HubSource
from orchestrator.repository.storage import CHUNK_BYTES, storage_errors, write_atomic

if TYPE_CHECKING:
    from huggingface_hub import HfApi


class HubFile(BaseModel):
    """One file of a commit. ``sha256`` is known before the first fetch only for large (LFS) files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    size: int
    git_oid: str | None = None
    """The sha1 of git's blob; says nothing of the content of an LFS file."""
    sha256: str | None = None


class Snapshot(BaseModel):
    """The files of one commit, by path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    commit: str
    files: tuple[HubFile, ...]


class Hub:
    """A model hub, seen from one build.

    Args:
        cache: where partial files and lists of files are kept.
        blobs: where whole files go.
        endpoint: base address; None: the hub library's own (which reads HF_ENDPOINT).
        token: for gated models; None: the one that ``hf auth login`` saved, if any.
        offline: ask nothing, use what is there.
    """

    def __init__(
        self,
        cache: Path,
        blobs: BlobStore,
        *,
        endpoint: str | None = None,
        token: str | None = None,
        offline: bool = False,
    ) -> None:
        self._cache = cache
        self._blobs = blobs
        self._endpoint = endpoint
        self._token = token
        self._offline = offline

    def snapshot(self, source: HubSource, model: str) -> Snapshot:
        """What ``source`` holds, at the commit its revision means now; ``model`` names it in errors.

        Raises:
            HubUnreachableError: the hub does not answer, or must not be asked.
            ArtifactNotFoundError: no such model or revision.
            GatedModelError: the model wants an accepted licence and a token.
        """
        if source.pinned and (known := self._recall(source.id, source.revision or "")):
            return known
        self._require_online(source, model)
        with hub_errors(source, model, self._host):
            info = self._api().model_info(
                source.id,
                revision=source.revision or DEFAULT_REVISION,
                files_metadata=True,
                timeout=TIMEOUT_S,
            )
        if info.sha is None:
            raise ArtifactError(
                f"the hub names no commit for {source}",
                host=self._host,
                model=model,
                fix="name one: --model NAME=ID@<revision>",
            )
        files = tuple(
            HubFile(
                path=item.rfilename,
                size=item.size if item.lfs is None else item.lfs.size,
                git_oid=item.blob_id if item.lfs is None else None,
                sha256=None if item.lfs is None else item.lfs.sha256,
            )
            for item in sorted(info.siblings or (), key=lambda item: item.rfilename)
            if item.size is not None or item.lfs is not None
        )
        snapshot = Snapshot(id=source.id, commit=info.sha, files=files)
        self._remember(snapshot)
        return snapshot

    def fetch(self, snapshot: Snapshot, file: HubFile, model: str, on_bytes: OnBytes | None = None) -> Blob:
        """The file, from the cache or the hub; ``on_bytes`` hears of each piece, resumed ones included.

        Raises:
            HubUnreachableError, ArtifactNotFoundError, GatedModelError: as `snapshot`.
            DigestMismatchError: what came is not what the hub states, twice.
            DiskFullError: no space left; what is there already is kept for the next time.
        """
        source = HubSource(snapshot.id, snapshot.commit)
        if file.sha256 is not None and (found := self._blobs.find(file.sha256, on_bytes)):
            return found
        self._require_online(source, model)
        blob = self._download(source, file, model, on_bytes)
        if file.sha256 is None:
            known = self._recall(snapshot.id, snapshot.commit) or snapshot
            pinned = file.model_copy(update={"sha256": blob.sha256})
            files = tuple(pinned if other.path == file.path else other for other in known.files)
            self._remember(known.model_copy(update={"files": files}))
        return blob

    @property
    def _host(self) -> str:
        return urlsplit(self._api().endpoint).netloc

    def _api(self) -> HfApi:
        try:
            from huggingface_hub import HfApi
        except ImportError as error:
            raise MissingDependencyError(
                f"the model hub's library is not installed: {error}",
                fix="pip install 'spark-speech[serve]', or use a local path or embedded weights",
            ) from error
        # False would turn off the token that the user saved with the hub's own login.
        return HfApi(endpoint=self._endpoint, token=self._token)

    def _require_online(self, source: HubSource, model: str) -> None:
        if self._offline:
            raise HubUnreachableError(
                f"{source} is not in the cache, and build.offline is set",
                model=model,
                fix="unset build.offline once to fetch it, or " + offline_way(model),
            )

    def _download(self, source: HubSource, file: HubFile, model: str, on_bytes: OnBytes | None) -> Blob:
        partial = self._cache / "partial" / _partial_name(source, file)
        with storage_errors(partial):
            partial.parent.mkdir(parents=True, exist_ok=True)
        name = f"{source.id}/{file.path}"
        for attempt in ("resumed", "whole"):
            with hub_errors(source, model, self._host):
                transfer(source, file.path, file.size, partial, self._endpoint, self._token, on_bytes)
            try:
                _check_git_oid(partial, file, name)
                return self._blobs.adopt(partial, expected=file.sha256, name=name)
            except DigestMismatchError:
                partial.unlink(missing_ok=True)
                if attempt == "whole":
                    raise
        raise ArtifactError(f"{name} could not be fetched", host=self._host, model=model)

    def _index(self, model_id: str, commit: str) -> Path:
        return self._cache / "hub" / model_id.replace("/", "--") / f"{commit}.json"

    def _recall(self, model_id: str, commit: str) -> Snapshot | None:
        try:
            snapshot = Snapshot.model_validate_json(self._index(model_id, commit).read_bytes())
        except (OSError, ValidationError):
            return None
        return snapshot if (snapshot.id, snapshot.commit) == (model_id, commit) else None

    def _remember(self, snapshot: Snapshot) -> None:
        write_atomic(self._index(snapshot.id, snapshot.commit), snapshot.model_dump_json().encode("utf-8"))


def _partial_name(source: HubSource, file: HubFile) -> str:
    key = f"{source.id}@{source.revision}/{file.path}"
    return f"{hashlib.sha256(key.encode('utf-8')).hexdigest()}.part"


def _check_git_oid(path: Path, file: HubFile, name: str) -> None:
    if file.git_oid is None:
        return
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != file.git_oid:
        raise DigestMismatchError(
            f"{name} has git blob id {digest.hexdigest()}, the hub states {file.git_oid}",
            fix="try again; if it stays so, the hub or a proxy alters files",
        )
