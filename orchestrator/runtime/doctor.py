"""Is this machine fit to serve? A list of checks, each with what to do about it. Nothing is changed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import psutil

from orchestrator.coldstart.cuda_cache import policy_violations
from orchestrator.errors import (
    ConfigurationError,
    PortInUseError,
    ReleaseNotFoundError,
    RepositoryError,
    TritonNotFoundError,
)
from orchestrator.repository.release import ReleaseStore, verify
from orchestrator.runtime import process, state, triton
from orchestrator.runtime.ports import check_ports
from orchestrator.settings import Settings

PYTHONS: Final = ((3, 11), (3, 12))
"""The versions that every pinned package has wheels for."""
SERVE_PACKAGES: Final = ("moonshine-voice", "nemo-toolkit", "pip", "pyannote.audio", "torch", "torchaudio")
"""What the ``serve`` extra brings."""
DISK_WARN_BYTES: Final = 5 * 1024**3
"""A build of the largest default model, its download kept beside it."""
DISK_FAIL_BYTES: Final = 512 * 1024**2
MEMORY_WARN_BYTES: Final = 8 * 1024**3
"""On unified memory (GB10) running out can freeze the machine: this much is to stay free."""
MEMORY_FAIL_BYTES: Final = 2 * 1024**3
SHM_WARN_BYTES: Final = 256 * 1024**2
"""Every model process takes 16 MiB and more as audio is long; Docker gives 64 MiB for all."""


class Level(StrEnum):
    """How a check went; only ``fail`` keeps the service from working."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: what was looked at, how it is, and what to do where it is not well."""

    name: str
    level: Level
    message: str
    fix: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """The finding as JSON-ready data."""
        return asdict(self)


def examine(settings: Settings) -> Iterator[Check]:
    """Run every check, one after the other; a package index or a model hub is never asked."""
    home = settings.paths.home
    yield check_python()
    yield check_libpython()
    yield check_packages()
    yield check_torch_pair()
    yield check_byte_code()
    yield check_triton(home)
    yield check_release(home)
    yield check_free_ports(settings)
    yield check_disk(home)
    yield check_memory()
    yield check_shared_memory()
    yield check_gpu()
    yield check_cuda_cache(home)


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    """The interpreter's version."""
    text = f"Python {version[0]}.{version[1]}"
    if version in PYTHONS:
        return Check("python", Level.OK, text)
    return Check("python", Level.FAIL, f"{text} is not supported", "use Python 3.11 or 3.12")


def check_libpython() -> Check:
    """The shared library that the server's Python backend embeds."""
    try:
        folder = triton.libpython_folder()
    except TritonNotFoundError as error:
        return Check("libpython", Level.FAIL, error.message, error.fix)
    return Check("libpython", Level.OK, str(folder / triton.libpython_name()))


def check_packages(version_of: Callable[[str], str] = importlib.metadata.version) -> Check:
    """What the ``serve`` extra installs."""
    missing = [name for name in SERVE_PACKAGES if _version(name, version_of) is None]
    if missing:
        fix = "pip install 'spark-speech[serve]'"
        return Check("packages", Level.WARN, f"not installed: {', '.join(missing)}", fix)
    return Check("packages", Level.OK, "everything of the serve extra is installed")


def check_torch_pair(version_of: Callable[[str], str] = importlib.metadata.version) -> Check:
    """torchaudio's binary loads only into the torch it was built with: same minor version, same CUDA."""
    torch, torchaudio = _version("torch", version_of), _version("torchaudio", version_of)
    if torch is None or torchaudio is None:
        return Check(
            "torch", Level.WARN, "torch or torchaudio is not installed", "pip install 'spark-speech[serve]'"
        )
    if _pair(torch) == _pair(torchaudio):
        return Check("torch", Level.OK, f"torch {torch}, torchaudio {torchaudio}")
    return Check(
        "torch",
        Level.FAIL,
        f"torchaudio {torchaudio} does not fit torch {torch}",
        f"install torchaudio {'.'.join(torch.split('.')[:2])} of the same CUDA build as torch",
    )


def check_byte_code(package: str = "torch") -> Check:
    """Whether Python kept what it compiled of the largest package; ``uv`` installs sources alone.

    The server's processes write none, so that each of their starts would compile it again: 2 s for
    ``import torch``.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return Check("byte code", Level.OK, f"{package} is not installed")
    if Path(importlib.util.cache_from_source(found.origin)).exists():
        return Check("byte code", Level.OK, "kept beside the packages")
    packages = Path(found.origin).parents[1]
    return Check(
        "byte code",
        Level.WARN,
        f"there is none of {package}: each start of the server compiles its sources, which takes seconds",
        f"{sys.executable} -m compileall -q -j 0 {packages}",
    )


def check_triton(home: Path) -> Check:
    """The server."""
    try:
        found = triton.find(home)
    except TritonNotFoundError as error:
        return Check("tritonserver", Level.WARN, error.message, "`spark-speech up` fetches one")
    return Check("tritonserver", Level.OK, f"{found.version} in {found.prefix}")


def check_release(home: Path) -> Check:
    """The release that `up` serves: there, whole, and for this machine."""
    try:
        release = ReleaseStore(home).current()
        verify(release)
    except ReleaseNotFoundError as error:
        return Check("release", Level.WARN, error.message, error.fix)
    except RepositoryError as error:
        return Check("release", Level.FAIL, error.message, error.fix or "spark-speech build")
    if release.manifest.target != platform.machine():
        return Check(
            "release",
            Level.FAIL,
            f"{release.id[:16]} is for {release.manifest.target}, this machine is {platform.machine()}",
            "spark-speech build",
        )
    return Check(
        "release", Level.OK, f"{release.id[:16]} with {', '.join(release.models)}, all digests match"
    )


def check_free_ports(settings: Settings) -> Check:
    """The server's ports: free, or the running server's own."""
    server = settings.server
    running = state.read(settings.paths.home)
    own = set(running.ports.values()) if running is not None and running.process() is not None else set()
    ports = {
        "server.http_port": server.http_port,
        "server.grpc_port": server.grpc_port,
        "server.metrics_port": server.metrics_port,
    }
    try:
        check_ports(server.host, {name: port for name, port in ports.items() if port not in own})
    except (PortInUseError, ConfigurationError) as error:
        return Check("ports", Level.FAIL, error.message, error.fix)
    shown = ", ".join(f"{port} {'is the server' if port in own else 'is free'}" for port in ports.values())
    return Check("ports", Level.OK, shown)


def check_disk(home: Path) -> Check:
    """Free space where releases and caches lie."""
    folder = next(path for path in (home, *home.parents) if path.exists())
    return _enough(
        "disk", shutil.disk_usage(folder).free, f"free at {folder}", DISK_WARN_BYTES, DISK_FAIL_BYTES
    )


def check_memory() -> Check:
    """The kernel's MemAvailable. (NVML cannot tell on unified memory, and free memory is not the same.)"""
    available = psutil.virtual_memory().available
    return _enough("memory", available, "available", MEMORY_WARN_BYTES, MEMORY_FAIL_BYTES)


def check_shared_memory(folder: Path = process.SHM_FOLDER) -> Check:
    """The space through which the server and its models' processes exchange audio."""
    size = shutil.disk_usage(folder).total
    if size >= SHM_WARN_BYTES:
        return Check("shared memory", Level.OK, f"{_gib(size)} in {folder}")
    return Check(
        "shared memory",
        Level.WARN,
        f"{folder} has only {size // 1024**2} MiB",
        "give the container more: docker run --shm-size=1g",
    )


def check_gpu() -> Check:
    """The GPU, where there is one."""
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except FileNotFoundError:
        return Check("gpu", Level.OK, "none: models run on the CPU")
    except (OSError, subprocess.SubprocessError) as error:
        return Check("gpu", Level.WARN, f"nvidia-smi fails: {error}", "check the driver: run nvidia-smi")
    lines = answer.stdout.strip().splitlines()
    return Check("gpu", Level.OK, "; ".join(lines) or "none: models run on the CPU")


def check_cuda_cache(home: Path) -> Check:
    """Whether the running server keeps compiled GPU code."""
    running = state.read(home)
    live = None if running is None else running.process()
    if live is None:
        return Check("cuda cache", Level.OK, "no server runs; `spark-speech up` sets the policy")
    try:
        violations = policy_violations(live.environ())
    except psutil.Error as error:
        return Check(
            "cuda cache", Level.WARN, f"the server's environment cannot be read: {error}", "ask as its user"
        )
    if violations:
        fix = "restart it with `spark-speech down` and `spark-speech up`"
        return Check("cuda cache", Level.WARN, "; ".join(violations), fix)
    return Check("cuda cache", Level.OK, "the running server keeps compiled GPU code")


def _version(name: str, version_of: Callable[[str], str]) -> str | None:
    try:
        return version_of(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pair(version: str) -> tuple[str, str]:
    """What two packages must share: ``2.11.0+cu130`` gives ``("2.11", "cu130")``."""
    public, _, local = version.partition("+")
    return ".".join(public.split(".")[:2]), local


def _enough(name: str, found: int, what: str, warn: int, fail: int) -> Check:
    level = Level.FAIL if found < fail else Level.WARN if found < warn else Level.OK
    fix = None if level is Level.OK else f"free some: {_gib(warn)} are comfortable, {_gib(fail)} the least"
    return Check(name, level, f"{_gib(found)} {what}", fix)


def _gib(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB"
