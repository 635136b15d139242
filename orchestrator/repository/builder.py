"""Carrying a plan out: fetch, render, name by content, stage, check, publish."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import MissingDependencyError, ReleaseCorruptError
from orchestrator.progress import ProgressReporter, SilentProgress
from orchestrator.repository import release as releases
from orchestrator.repository.artifacts import ResolvedModel, Resolver
from orchestrator.repository.blobs import Blob, BlobStore
from orchestrator.repository.catalog import MODEL_VERSION
from orchestrator.repository.config import FILE_NAME, render
from orchestrator.repository.hub import Hub
from orchestrator.repository.manifest import FileEntry, Manifest, ModelEntry
from orchestrator.repository.plan import BuildPlan, version_folder
from orchestrator.repository.release import Release, ReleaseStore
from orchestrator.repository.sources import LocalSource
from orchestrator.repository.storage import storage_errors
from orchestrator.repository.validate import Check, LoadCheck, outcomes, validate

LOCK_WAIT_S: Final = 3600.0
_LOAD: Final = "load in tritonserver"


@dataclass(frozen=True, slots=True)
class HubAccess:
    """How the model hub is reached; see `Hub`."""

    endpoint: str | None = None
    token: str | None = None
    offline: bool = False


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build gave: the release, whether it was written now, and how it was checked."""

    release: Release
    created: bool
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    """What the operator should know of the release."""

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return {
            **self.release.to_dict(),
            "created": self.created,
            "checks": [
                {"name": check.name, "outcome": check.outcome, "detail": check.detail}
                for check in self.checks
            ],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Builder:
    """Builds releases into one home.

    Attributes:
        home: where caches and releases are.
        models: the model repository in source, for the model.py files.
        hub: how the model hub is reached.
        load: how a release is tried in a server; None skips that.
        skip_machine: why this machine need not be able to serve the release; None: it must.
    """

    home: Path
    models: Path
    hub: HubAccess = HubAccess()
    load: LoadCheck | None = None
    skip_machine: str | None = None
    progress: ProgressReporter = field(default_factory=SilentProgress)

    def build(self, plan: BuildPlan) -> BuildResult:
        """Carry ``plan`` out and make the release current.

        A release that is there already is verified and reused; a damaged one is replaced.

        Raises:
            ArtifactError: a model's weights cannot be had.
            ReleaseInvalidError: a check failed; nothing is published.
            MissingDependencyError: a package whose version belongs to the release is not installed.
            DiskFullError, RepositoryError: it cannot be written; nothing is left of it.
        """
        versions = {name: installed_version(name) for name in plan.packages}
        store = ReleaseStore(self.home)
        blobs = BlobStore(self.home / "cache" / "blobs" / "sha256")
        with store.locked(wait_s=LOCK_WAIT_S, on_wait=self._say_waiting):
            blobs.sweep()
            resolver = self._resolver(blobs)
            # What lies here first: a path that is wrong is told before anything is downloaded.
            near_first = sorted(plan.models, key=lambda model: not isinstance(model.source, LocalSource))
            found = {model.name: resolver.resolve(model) for model in near_first}
            resolved = [found[model.name] for model in plan.models]
            versions |= {name: installed_version(name) for model in resolved for name in model.packages}
            files = self._files(resolved, blobs)
            manifest = make_manifest(plan, resolved, files, versions)
            result = self._reuse(store, manifest) or self._publish(store, manifest, files)
            store.activate(manifest.id)
        notes = tuple(
            f"{model.plan.name} is served with NeMo, which takes long to start: {model.kept}"
            for model in resolved
            if model.kept is not None
        )
        return replace(result, notes=notes)

    def _resolver(self, blobs: BlobStore) -> Resolver:
        cache = self.home / "cache"
        hub = Hub(
            cache,
            blobs,
            endpoint=self.hub.endpoint,
            token=self.hub.token,
            offline=self.hub.offline,
        )
        return Resolver(cache, blobs, hub, self.progress, offline=self.hub.offline)

    def _files(self, resolved: list[ResolvedModel], blobs: BlobStore) -> dict[str, Blob]:
        files: dict[str, Blob] = {}
        for model in resolved:
            name = model.plan.name
            files[f"{name}/{FILE_NAME}"] = blobs.add_bytes(render(model.plan.config).encode("utf-8"))
            source = self.models / name / MODEL_VERSION / "model.py"
            with storage_errors(source, "read"):
                files[f"{version_folder(name)}/model.py"] = blobs.add_bytes(source.read_bytes())
            files |= {f"{version_folder(name)}/{path}": blob for path, blob in model.files.items()}
        return files

    def _reuse(self, store: ReleaseStore, manifest: Manifest) -> BuildResult | None:
        if manifest.id not in store.ids():
            return None
        task = self.progress.task("checking the release that is here", float(manifest.total_bytes))
        done = 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            task.update(completed=done)

        try:
            release = store.find(manifest.id)
            releases.verify(release, count)
        except ReleaseCorruptError:
            task.finish("the release that is here is damaged: building it again")
            return None
        task.finish("the release that is here is whole")
        if self.load is None or release.checks.get(_LOAD) == "passed":
            known = tuple(Check(name, _outcome(text)) for name, text in release.checks.items())
            return BuildResult(release, created=False, checks=known)
        checks = self._validate(release.folder, manifest)
        store.record_checks(release, outcomes(checks))
        return BuildResult(release, created=False, checks=checks)

    def _publish(self, store: ReleaseStore, manifest: Manifest, files: Mapping[str, Blob]) -> BuildResult:
        checks: tuple[Check, ...] = ()

        def check(folder: Path) -> dict[str, str]:
            nonlocal checks
            checks = self._validate(folder, manifest)
            return outcomes(checks)

        release = store.publish(manifest, files, check)
        return BuildResult(release, created=True, checks=checks)

    def _validate(self, folder: Path, manifest: Manifest) -> tuple[Check, ...]:
        task = self.progress.task("checking the release")
        checks = validate(folder, manifest, load=self.load, skip_machine=self.skip_machine)
        task.finish("the release passes its checks")
        return checks

    def _say_waiting(self) -> None:
        self.progress.task("waiting for another build to end")


def make_manifest(
    plan: BuildPlan,
    resolved: list[ResolvedModel],
    files: Mapping[str, Blob],
    versions: Mapping[str, str],
) -> Manifest:
    """The manifest of a release: pure, from what was planned and what was found."""
    return Manifest.create(
        target=plan.target,
        device=plan.device,
        packages=dict(versions),
        models=tuple(
            ModelEntry(
                name=model.plan.name,
                task=str(model.plan.kind.task),
                engine=model.plan.kind.engine,
                source=model.source,
                revision=model.revision,
                packages={name: versions[name] for name in model.packages},
                settings={
                    "max_batch_size": model.plan.config.max_batch_size,
                    **model.plan.config.parameters,
                },
            )
            for model in resolved
        ),
        files=tuple(FileEntry(path=path, sha256=blob.sha256, size=blob.size) for path, blob in files.items()),
    )


def installed_version(distribution: str) -> str:
    """The installed version without its local part (``+cu130``), which differs between machines.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.metadata.version(distribution).split("+")[0]
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingDependencyError(
            f"{distribution} is not installed; its version belongs to the release",
            fix="pip install 'spark-speech[serve]'",
        ) from error


def _outcome(text: str) -> Any:
    return text if text in {"passed", "failed"} else "skipped"
