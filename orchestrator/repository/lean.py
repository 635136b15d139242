"""The lean form of a checkpoint, made when a release is built so that serving needs no NeMo.

What a conversion gave is remembered by the checkpoint's digest, so that the next build need not do it again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import orchestrator
from orchestrator.errors import ArtifactError, MissingDependencyError, ModelLoadError, UnsupportedModelError
from orchestrator.progress import ProgressReporter
from orchestrator.repository.blobs import Blob, BlobStore
from orchestrator.repository.plan import ModelPlan
from orchestrator.repository.storage import storage_errors

CHECKPOINT: Final = "model.nemo"
FILES: Final = ("model.safetensors", "model.json")
"""The same names as in `orchestrator.engines.fastconformer.artifact`, which imports torch."""
Precision = Literal["float32", "bfloat16"]

_NEMO_ENGINE: Final = "parakeet"
"""The engine that has NeMo for what the native runtime cannot compute."""


@dataclass(frozen=True, slots=True)
class LeanForm:
    """What a release takes for a checkpoint.

    Attributes:
        files: by name in the version folder.
        kept: why that is the checkpoint itself; None where it is the lean form.
    """

    files: Mapping[str, Blob]
    kept: str | None = None


class LeanForms:
    """Makes lean forms.

    Args:
        cache: the cache folder, on the same file system as the blobs.
        blobs: where the files go.
        progress: says what is being done.
    """

    def __init__(self, cache: Path, blobs: BlobStore, progress: ProgressReporter) -> None:
        self._records = cache / "lean"
        self._blobs = blobs
        self._progress = progress

    def of(self, checkpoint: Blob, plan: ModelPlan) -> LeanForm:
        """What the release takes for ``checkpoint``. The caller holds the build lock.

        Raises:
            ArtifactError: the checkpoint is corrupt, or the engine cannot serve it.
            MissingDependencyError: the libraries that read a checkpoint are not installed.
            DiskFullError, RepositoryError: it cannot be written.
        """
        precision = precision_of(plan)
        record = self._record(checkpoint, precision)
        if known := self._known(record):
            return LeanForm(known)
        task = self._progress.task(f"{plan.name}: weights for serving, {precision}")
        work = self._records / "work"
        try:
            with storage_errors(work):
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir(parents=True)
            convert(checkpoint, precision, work)
            files = {name: self._blobs.adopt(work / name) for name in FILES}
            with storage_errors(record):
                record.write_text(json.dumps({name: blob.sha256 for name, blob in files.items()}))
        except UnsupportedModelError as error:
            if plan.kind.engine != _NEMO_ENGINE:
                raise _refused(plan, checkpoint, error) from error
            task.finish(f"{plan.name}: served with NeMo: {error.message}")
            return LeanForm({CHECKPOINT: checkpoint}, kept=error.message)
        except ModelLoadError as error:
            raise _refused(plan, checkpoint, error) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
        task.finish(f"{plan.name}: weights for serving ready, {precision}")
        return LeanForm(files)

    def checked(self, files: Mapping[str, Blob], plan: ModelPlan) -> None:
        """Refuse a lean form, given as the source, that the engine could not load.

        Raises:
            ArtifactError: the files are damaged or do not belong together.
        """
        work = self._records / "work"
        try:
            with storage_errors(work):
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir(parents=True)
                for name in FILES:
                    (work / name).symlink_to(files[name].path.resolve())
            load(work)
        except ModelLoadError as error:
            message = error.message.replace(f"{work}/", "")
            raise ArtifactError(
                f"{plan.source} cannot be served: {message}", model=plan.name, fix="make it again"
            ) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _record(self, checkpoint: Blob, precision: Precision) -> Path:
        made_by = f"{orchestrator.__version__} {checkpoint.sha256} {precision}"
        return self._records / f"{hashlib.sha256(made_by.encode()).hexdigest()}.json"

    def _known(self, record: Path) -> dict[str, Blob] | None:
        try:
            digests = json.loads(record.read_text(encoding="utf-8"))
            found = {name: self._blobs.find(str(digests[name])) for name in FILES}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        files = {name: blob for name, blob in found.items() if blob is not None}
        return files if len(files) == len(FILES) else None


def precision_of(plan: ModelPlan) -> Precision:
    """What the weights are stored and computed in: where nobody says, bfloat16 on a GPU."""
    if plan.precision != "auto":
        return plan.precision
    on_gpu = any(group.device == "cuda" for group in plan.config.instances)
    return "bfloat16" if on_gpu else "float32"


def convert(checkpoint: Blob, precision: Precision, folder: Path) -> None:
    """Write the lean form of ``checkpoint`` into ``folder``.

    Raises:
        UnsupportedModelError: the native runtime cannot compute it.
        ModelLoadError: it is corrupt.
        ArtifactError: the files cannot be written.
        MissingDependencyError: a library is not installed.
    """
    try:
        from orchestrator.engines.fastconformer import artifact
        from orchestrator.engines.fastconformer import checkpoint as checkpoints
    except ImportError as error:
        raise _missing(error) from error
    description, weights = checkpoints.read(checkpoint.path, sha256=checkpoint.sha256)
    artifact.save(folder, replace(description, precision=precision), weights)
    load(folder)


def load(folder: Path) -> None:
    """Load the lean form in ``folder`` as the engine will.

    Raises:
        ModelLoadError: it cannot be loaded.
        MissingDependencyError: a library is not installed.
    """
    try:
        import torch

        from orchestrator.engines.fastconformer import artifact
    except ImportError as error:
        raise _missing(error) from error
    artifact.load(folder, torch.device("cpu"))


def _missing(error: ImportError) -> MissingDependencyError:
    return MissingDependencyError(
        f"preparing a checkpoint for serving needs a library that is not installed: {error}",
        fix="run: pip install 'spark-speech[serve]'",
    )


def _refused(plan: ModelPlan, checkpoint: Blob, error: ModelLoadError) -> ArtifactError:
    message = error.message.replace(str(checkpoint.path), "it")
    return ArtifactError(f"{plan.source} cannot be served: {message}", model=plan.name, fix=error.fix)
