"""TensorRT plans kept from start to start, each for one model, one TensorRT and one kind of GPU.

A plan is machine code: TensorRT does not promise that another version, or another GPU, takes it, and a plan
of another model answers wrongly. So each lies in a folder whose name says all of these, beside a description
that is compared before TensorRT sees a byte of it. Nothing here needs TensorRT.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from orchestrator.errors import DiskFullError, ModelLoadError

DESCRIPTION: Final = "plans.json"
SUFFIX: Final = ".plan"
_SCHEMA: Final = 1
_ENGINE: Final = "whisper_trt"


@dataclass(frozen=True, slots=True)
class Target:
    """What plans fit.

    Attributes:
        model: digest of the checkpoint's weights and configuration.
        tensorrt: its version.
        gpu: the GPU's name.
        architecture: its compute capability, ``sm_121``.
        precision: ``float16``, ``bfloat16`` or ``float32``.
        rows: most rows of one step.
    """

    model: str
    tensorrt: str
    gpu: str
    architecture: str
    precision: str
    rows: int

    @property
    def name(self) -> str:
        """The folder's."""
        plain = "-".join(
            (self.model[:16], f"trt{self.tensorrt}", self.architecture, self.precision, f"b{self.rows}")
        )
        gpu = hashlib.sha256(self.gpu.encode()).hexdigest()[:8]
        return "".join(char if char.isalnum() or char in "-." else "_" for char in plain) + f"-{gpu}"


def digest_of(files: Iterable[Path]) -> str:
    """sha256 over the names and bytes of a checkpoint's files, hexadecimal.

    Raises:
        ModelLoadError: one cannot be read.
    """
    whole = hashlib.sha256()
    for path in sorted(files, key=lambda one: one.name):
        try:
            with path.open("rb") as file:
                inner = hashlib.file_digest(file, "sha256")
        except OSError as error:
            raise ModelLoadError(
                f"{path} cannot be read: {error.strerror}",
                fix="copy the checkpoint again.",
                model=_ENGINE,
                path=path,
            ) from error
        whole.update(f"{path.name}\0{inner.hexdigest()}\n".encode())
    return whole.hexdigest()


def write(folder: Path, target: Target, plans: Mapping[str, bytes]) -> None:
    """Keep plans by name; whole or not at all.

    Raises:
        DiskFullError: they cannot be written.
    """
    description = {
        "schema": _SCHEMA,
        **asdict(target),
        "plans": {name: hashlib.sha256(plan).hexdigest() for name, plan in sorted(plans.items())},
    }
    texts = {f"{name}{SUFFIX}": plan for name, plan in plans.items()}
    # The description comes last: plans without one do not count.
    texts[DESCRIPTION] = json.dumps(description, indent=1).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in texts.items():
            part = folder / f".{name}.{os.getpid()}.part"
            try:
                part.write_bytes(data)
                part.replace(folder / name)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise DiskFullError(
            f"TensorRT's plans cannot be kept: {error.strerror}",
            fix="make room, or name another folder with the engine's option plans_folder.",
            path=folder,
        ) from error


def read(folder: Path, target: Target) -> dict[str, bytes] | None:
    """The plans in ``folder`` by name; None where there are none.

    Raises:
        ModelLoadError: they are for another model, TensorRT or GPU, or damaged.
    """
    path = folder / DESCRIPTION
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        digests = data["plans"]
        if data["schema"] != _SCHEMA or not isinstance(digests, dict) or not digests:
            raise ValueError("it is of another kind")
        found = {name: (str(data[name]), str(wanted)) for name, wanted in asdict(target).items()}
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(path, error.strerror or "it cannot be read") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, str(error)) from error
    if wrong := [f"{name} {is_}, not {wanted}" for name, (is_, wanted) in found.items() if is_ != wanted]:
        raise ModelLoadError(
            f"the TensorRT plans in {folder} are for another target: {'; '.join(wrong)}",
            fix="plans cannot be moved: delete the folder, and the engine builds them here.",
            model=_ENGINE,
            path=folder,
        )
    plans = {}
    for name, digest in digests.items():
        file = folder / f"{Path(str(name)).name}{SUFFIX}"
        try:
            plan = file.read_bytes()
        except OSError as error:
            raise _damaged(file, error.strerror or "it cannot be read") from error
        if hashlib.sha256(plan).hexdigest() != digest:
            raise _damaged(file, "its digest is another")
        plans[str(name)] = plan
    return plans


def refuse_others(folder: Path, target: Target) -> None:
    """Refuse plans that came along, and of which none is for ``target``.

    Raises:
        ModelLoadError: naming what they are for.
    """
    found = sorted(path.parent.name for path in folder.glob(f"*/{DESCRIPTION}"))
    if found and target.name not in found:
        raise ModelLoadError(
            f"the TensorRT plans in {folder} are for other targets ({', '.join(found)}), and this is "
            f"{target.name}: {target.gpu} ({target.architecture}) with TensorRT {target.tensorrt}",
            fix=f"plans cannot be moved: build the release without the folder {folder.name}, or here.",
            model=_ENGINE,
            path=folder,
        )


def _damaged(path: Path, reason: str) -> ModelLoadError:
    return ModelLoadError(
        f"{path} is damaged: {reason}",
        fix="delete its folder, and the engine builds the plans again.",
        model=_ENGINE,
        path=path,
    )
