"""A base image for the Dockerfile, made of this machine's own files: no registry is asked.

It is to the build what ``python:3.12-slim`` is, with what the build would download already in place: Python
and its pip, a few programs, and the pinned packages. Of packages that a CPU and Moonshine do not need only
the metadata is there, which tells pip that they are installed.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# tritonserver's Python backend starts its processes through bash.
PROGRAMS = ("bash", "sh", "chmod", "env", "find", "id", "ln", "ls", "mkdir", "rm", "sed", "sleep", "touch")
EXTRAS = frozenset({"gateway"})
ENGINES = ("moonshine-voice", "pip")
# Python's shells for a desktop, and what C extensions are compiled with.
_UNUSED = ("idlelib", "tkinter", "_tkinter*", "turtledemo", "config-*")
# The image holds none, so serving has to do without.
WEIGHTS = (".ort", ".onnx", ".nemo", ".jit", ".safetensors")
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")


def write(folder: Path, checkout: Path, triton: Path) -> None:
    """Write the image's root into ``folder``.

    Args:
        folder: an empty folder.
        checkout: where ``compose/requirements*.txt`` lie.
        triton: the unpacked tritonserver of the wheel.
    """
    for name in ("bin", "lib", "lib64"):
        (folder / "usr" / name).mkdir(parents=True)
        (folder / name).symlink_to(f"usr/{name}")
    for name in ("dev", "etc", "proc", "root", "sys", "var"):
        (folder / name).mkdir()
    (folder / "tmp").mkdir(mode=0o1777)
    (folder / "tmp").chmod(0o1777)
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\n")
    for program in PROGRAMS:
        found = shutil.which(program, path="/usr/bin:/bin")
        assert found is not None, program
        _copy(Path(found).resolve(), folder / "usr/bin" / program)
    _python(folder)
    _packages(folder, checkout)
    server = folder / "var/lib/spark-speech/triton" / triton.name
    shutil.copytree(triton, server, symlinks=True)
    _libraries(folder)
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)


def _python(folder: Path) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    local = folder / "usr/local"
    (local / "bin").mkdir(parents=True)
    _copy(Path(sys.executable).resolve(), local / "bin" / version)
    for name in ("python", "python3"):
        (local / "bin" / name).symlink_to(version)
    skipped = shutil.ignore_patterns(
        "site-packages", "dist-packages", "test", "idlelib", "tkinter", "config-*"
    )
    shutil.copytree(sysconfig.get_path("stdlib"), local / "lib" / version, symlinks=True, ignore=skipped)
    packages = local / "lib" / version / "site-packages"
    _distribution("pip", packages)
    from orchestrator.runtime.triton import libpython_folder, libpython_name

    # Where every program's loader looks.
    multiarch = sysconfig.get_config_var("MULTIARCH")
    _copy(libpython_folder() / libpython_name(), folder / "usr/lib" / multiarch / libpython_name())


def _packages(folder: Path, checkout: Path) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "opt/spark-speech/lib" / version / "site-packages"
    needed = _closure(["spark-speech", *ENGINES], EXTRAS)
    for name in needed - {"spark-speech"}:
        _distribution(name, packages)
    for name in _pinned(checkout) - needed:
        _distribution(name, packages, only_metadata=True)
    torch = Path(str(importlib.metadata.distribution("torch").locate_file("torch")))
    _copy(torch / "bin/ptxas", packages / "torch/bin/ptxas")


def _pinned(checkout: Path) -> set[str]:
    lines = [
        line
        for file in ("requirements.txt", "requirements-source.txt")
        for line in (checkout / "compose" / file).read_text().splitlines()
        if line[:1].isalnum()
    ]
    wanted = [Requirement(line.removesuffix("\\").strip()) for line in lines]
    return {canonicalize_name(each.name) for each in wanted if each.marker is None or each.marker.evaluate()}


def _closure(names: Iterable[str], extras: frozenset[str]) -> set[str]:
    """Everything that ``names`` need here, with ``extras`` of the first."""
    found: set[str] = set()
    waiting = [(name, extras if place == 0 else frozenset()) for place, name in enumerate(names)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, wanted = waiting.pop()
        name = canonicalize_name(name)
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        found.add(name)
        for text in importlib.metadata.distribution(name).requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or _applies(requirement.marker, wanted):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    return found


def _applies(marker: Marker, extras: frozenset[str]) -> bool:
    return any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _distribution(name: str, target: Path, *, only_metadata: bool = False) -> None:
    distribution = importlib.metadata.distribution(name)
    for file in distribution.files or ():
        if ".." in file.parts or "__pycache__" in file.parts:
            continue
        if file.suffix in WEIGHTS or (only_metadata and not file.parts[0].endswith(".dist-info")):
            continue
        source = Path(str(distribution.locate_file(file)))
        if source.is_file():
            _copy(source, target / file)


def _libraries(folder: Path) -> None:
    """Add the shared libraries that the programs and libraries in ``folder`` find on this machine."""
    multiarch = sysconfig.get_config_var("MULTIARCH")
    loader_path = os.pathsep.join(str(path) for path in [*folder.glob("var/lib/spark-speech/triton/*/lib")])
    own = [str(path) for path in _binaries(folder)]
    done = subprocess.run(
        ["ldd", *own], capture_output=True, text=True, env=os.environ | {"LD_LIBRARY_PATH": loader_path}
    )
    for line in done.stdout.splitlines():
        match = _LIBRARY.search(line)
        if match is None or match[1].startswith(str(folder)):
            continue
        source = Path(match[1])
        if not any(source.is_relative_to(system) for system in ("/lib", "/usr/lib", "/lib64")):
            continue
        target = "usr/lib64" if source.name.startswith("ld-") else f"usr/lib/{multiarch}"
        if not (folder / target / source.name).exists():
            _copy(source.resolve(), folder / target / source.name)


def _binaries(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file() or path.stat().st_size < 64:
            continue
        if os.access(path, os.X_OK) or ".so" in path.name:
            with path.open("rb") as source:
                if source.read(4) == b"\x7fELF":
                    yield path


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
