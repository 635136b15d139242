"""The files of a container image: an archive of `docker save`, or an OCI layout in one; not unpacked.

Files are read where they lie in the archive; only what is compressed is written, once, to a folder for
temporary files. Later layers hide files of earlier ones, as a container would see it.
"""

from __future__ import annotations

import gzip
import json
import posixpath
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from orchestrator.coldstart.kernel_sources import Candidate, Found, is_candidate
from orchestrator.coldstart.kernels import printable
from orchestrator.coldstart.window import opened
from orchestrator.errors import AuditError

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_TAR_MAGIC_AT: Final = 257
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_MAX_UNPACKED_BYTES: Final = 200 << 30
_MAX_JSON_BYTES: Final = 16 << 20
_COPY_BYTES: Final = 1 << 20
_PROGRAMS: Final = ("docker", "podman")
_SAVE_S: Final = 1800.0


def is_archive(path: Path) -> bool:
    """Whether this is a tar file, plain or compressed with gzip, by its first bytes."""
    try:
        with opened(path) as window:
            return window.read(0, 2) == _GZIP or window.read(_TAR_MAGIC_AT, 5) == b"ustar"
    except OSError:  # a folder, or a file that whoever reads it next will say more about
        return False


def of_archive(path: Path, scratch: Path) -> Found:
    """The candidates of an image's archive, and the environment that its containers start with.

    Args:
        path: a tar file, plain or compressed with gzip.
        scratch: a folder for what must be decompressed; the candidates lie there as long as it stays.

    Raises:
        AuditError: it is no image, or damaged.
    """
    with _reading(path):
        plain = _plain(path, scratch / "image.tar")
        with tarfile.open(plain, "r:") as archive:
            config, layers = _parts(archive, path)
            found = Found(environment=_environment(config))
            files: dict[str, Candidate] = {}
            for number, name in enumerate(layers):
                member = _member(archive, name, path)
                layer, start = _layer(plain, member, scratch / f"layer-{number}.tar", name)
                _add_layer(files, layer, start, member.size if layer == plain else None)
            found.candidates.extend(files[name] for name in sorted(files))
    return found


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, ValueError, KeyError, TypeError, IndexError) as error:
        raise AuditError(
            f"{path.name} is no container image that can be read: {error}",
            fix="save it with `docker save IMAGE -o image.tar`",
            path=path,
        ) from error
    except OSError as error:
        raise AuditError(
            f"{path.name} cannot be read: {error.strerror or error}",
            fix="look at the file, and at the room in the folder for temporary files",
            path=path,
        ) from error


def _plain(path: Path, target: Path) -> Path:
    with path.open("rb") as file:
        if file.read(2) != _GZIP:
            return path
    with gzip.open(path) as source:
        _copy(source, target)
    return target


def _copy(source: IO[bytes] | gzip.GzipFile, target: Path) -> None:
    left = _MAX_UNPACKED_BYTES
    with target.open("wb") as out:
        while block := source.read(_COPY_BYTES):
            left -= len(block)
            if left < 0:
                raise ValueError(f"it unpacks to more than {_MAX_UNPACKED_BYTES >> 30} GiB")
            out.write(block)


def _member(archive: tarfile.TarFile, name: str, path: Path) -> tarfile.TarInfo:
    try:
        member = archive.getmember(name)
    except KeyError as error:
        raise AuditError(
            f"{path.name} lacks its part {name}", fix="save the image again", path=path
        ) from error
    if not member.isreg():
        raise ValueError(f"{name} is no file")
    return member


def _json(archive: tarfile.TarFile, name: str, path: Path) -> Any:
    member = _member(archive, name, path)
    file = archive.extractfile(member)
    if file is None or member.size > _MAX_JSON_BYTES:
        raise ValueError(f"{name} is no description")
    return json.loads(file.read())


def _parts(archive: tarfile.TarFile, path: Path) -> tuple[Any, list[str]]:
    """The image's configuration, and its layers' names from the lowest up."""
    names = set(archive.getnames())
    if "manifest.json" in names:
        first = _json(archive, "manifest.json", path)[0]
        return _json(archive, str(first["Config"]), path), [str(name) for name in first["Layers"]]
    if "index.json" not in names:
        raise ValueError("it holds neither manifest.json nor index.json")
    manifest = _json(archive, "index.json", path)
    while "manifests" in manifest:  # an index of platforms points to one more
        chosen = manifest["manifests"][0]
        if chosen["digest"] in manifest.get("seen", ()):
            raise ValueError("its index points to itself")
        manifest = _json(archive, _blob(chosen["digest"]), path)
        manifest.setdefault("seen", []).append(chosen["digest"])
    return (
        _json(archive, _blob(manifest["config"]["digest"]), path),
        [_blob(layer["digest"]) for layer in manifest["layers"]],
    )


def _blob(digest: str) -> str:
    return "blobs/" + str(digest).replace(":", "/", 1)


def _environment(config: Any) -> dict[str, str]:
    pairs = (str(line).partition("=") for line in (config.get("config") or {}).get("Env") or ())
    return {name: value for name, _, value in pairs}


def _layer(plain: Path, member: tarfile.TarInfo, target: Path, name: str) -> tuple[Path, int]:
    """The file in which a layer lies uncompressed, and where it begins there."""
    with opened(plain) as window:
        head = window.read(member.offset_data, 4)
        if head.startswith(_ZSTD):
            raise ValueError(f"layer {name} is compressed with Zstandard: save it with `docker save`")
        if not head.startswith(_GZIP):
            return plain, member.offset_data
        part = window.part(member.offset_data, member.size)
        with gzip.GzipFile(fileobj=part.stream(part.size + _COPY_BYTES)) as source:
            _copy(source, target)
    return target, 0


def _add_layer(files: dict[str, Candidate], layer: Path, start: int, size: int | None) -> None:
    with opened(layer) as window:
        part = window.part(start, window.size if size is None else size)
        own: dict[str, Candidate] = {}
        # Headers are small and the files between them are stepped over.
        with tarfile.open(fileobj=part.stream(part.size + _COPY_BYTES), mode="r:") as archive:
            for member in archive:
                name = posixpath.normpath("/" + member.name)
                folder, base = posixpath.split(name)
                if base == _OPAQUE:
                    _hide(files, folder)
                elif base.startswith(_WHITEOUT):
                    _hide(files, posixpath.join(folder, base.removeprefix(_WHITEOUT)))
                else:
                    files.pop(name, None)
                    if member.isreg() and is_candidate(base, member.mode, member.size):
                        at = start + member.offset_data
                        own[name] = Candidate(str(layer), printable(name), at, member.size)
        files.update(own)


def _hide(files: dict[str, Candidate], name: str) -> None:
    prefix = name.rstrip("/") + "/"
    for hidden in [path for path in files if path == name or path.startswith(prefix)]:
        del files[hidden]


def saved(name: str, scratch: Path) -> Path:
    """The archive of an image that this machine's container program has.

    Raises:
        AuditError: there is no such image, or no program that could have it.
    """
    program = next((found for found in map(shutil.which, _PROGRAMS) if found is not None), None)
    fix = "name a file, a folder, an image of this machine, or an archive made with `docker save`"
    if program is None:
        raise AuditError(f"there is no file {name}, and no docker or podman here that could have it", fix=fix)
    target = scratch / "saved.tar"
    try:
        done = subprocess.run(
            [program, "image", "save", "--output", str(target), "--", name],
            capture_output=True,
            text=True,
            timeout=_SAVE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise AuditError(f"{Path(program).name} cannot save the image {name}: {error}", fix=fix) from error
    if done.returncode != 0 or not target.exists():
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise AuditError(f"there is no file or image {name}: {reason[:300]}", fix=fix)
    return target
