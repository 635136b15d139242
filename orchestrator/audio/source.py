"""Open what the caller named, within the size limit, before any decoder sees it."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import (
    AudioDecodeError,
    AudioEmptyError,
    AudioNotFoundError,
    AudioTooLongError,
    AudioValueError,
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a recording comes from: its name, how messages call it, and its path if it is a file."""

    name: str
    label: str
    path: Path | None


@dataclass(frozen=True, slots=True)
class Opened:
    """An open, seekable binary file of ``size`` bytes."""

    file: BinaryIO
    size: int
    origin: Origin

    @property
    def label(self) -> str:
        """How messages call it."""
        return self.origin.label

    @property
    def path(self) -> Path | None:
        """Its path, if it is a file."""
        return self.origin.path

    def rewind(self) -> BinaryIO:
        """The file, at its start."""
        self.file.seek(0)
        return self.file


class _Memory(io.BytesIO):
    """Bytes as a file for libsndfile, which on damage seeks to before the start and checks where it is."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (OSError, ValueError):  # raised inside a C callback it would only be printed
            return self.tell()


@contextmanager
def open_source(
    source: str | Path | bytes | bytearray | memoryview | BinaryIO, max_bytes: int
) -> Iterator[Opened]:
    """Open ``source`` and close it afterwards, if it was opened here.

    Raises:
        AudioNotFoundError: no such file, a folder, or not readable.
        AudioEmptyError: nothing in it.
        AudioTooLongError: more than ``max_bytes``; a stream is read no further.
        AudioValueError: a file opened as text.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        origin = Origin(path.name, path.name or str(path), path)
        with _open_path(path) as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode):
                _check_size(status.st_size, max_bytes, origin)
                yield Opened(file, status.st_size, origin)
            else:  # a pipe or the like: cannot seek, so it is read whole
                yield _read_all(file, max_bytes, origin)
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        origin = Origin("", "the given bytes", None)
        _check_size(len(data), max_bytes, origin)
        yield Opened(_Memory(data), len(data), origin)
    else:
        given = getattr(source, "name", "")
        name = Path(given).name if isinstance(given, str) else ""
        yield _read_all(source, max_bytes, Origin(name, name or "the given stream", None))


def _open_path(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except IsADirectoryError as error:
        raise AudioNotFoundError(
            f"{path} is a folder, not a recording.", fix="name a file inside it.", path=path
        ) from error
    except FileNotFoundError as error:
        raise AudioNotFoundError(
            f"There is no file {path}.", fix="check the name and the working folder.", path=path
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioNotFoundError(
            f"{str(path)!r} cannot be opened: {reason}.",
            fix="check the name and the file's permissions.",
            path=path,
        ) from error


def _read_all(file: BinaryIO, max_bytes: int, origin: Origin) -> Opened:
    parts: list[bytes] = []
    size = 0
    while size <= max_bytes:
        try:
            part = file.read(min(1 << 20, max_bytes + 1 - size))
        except (OSError, ValueError) as error:  # ValueError: closed, or text that is not UTF-8
            raise AudioDecodeError(
                f"Reading {origin.label} failed: {error}",
                fix="pass a file open for reading bytes.",
                path=origin.path,
            ) from error
        if not isinstance(part, bytes):
            raise AudioValueError(
                f"{origin.label} gives {type(part).__name__} instead of bytes.", fix="open it with mode 'rb'."
            )
        if not part:
            break
        parts.append(part)
        size += len(part)
    _check_size(size, max_bytes, origin)
    return Opened(_Memory(b"".join(parts)), size, origin)


def _check_size(size: int, max_bytes: int, origin: Origin) -> None:
    if size == 0:
        raise AudioEmptyError(
            f"There is nothing in {origin.label}: 0 bytes.",
            fix="check that the recording was saved.",
            path=origin.path,
        )
    if size > max_bytes:
        raise AudioTooLongError(
            f"{origin.label} is larger than {max_bytes:,} bytes, the configured maximum.",
            fix="raise audio.max_bytes in the settings, or cut the recording.",
            path=origin.path,
        )
