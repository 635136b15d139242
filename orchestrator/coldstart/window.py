"""A read-only part of a file, read by position.

Positional reads and not a memory map: a file that shrinks below a map ends the process with SIGBUS, and what
is audited here is installed, upgraded and removed by others.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

BLOCK_BYTES: Final = 1 << 22
"""How much a search reads at once."""


class ReadBudgetExceeded(ValueError):
    """A parser asked for more bytes than a sound file needs."""


@dataclass(frozen=True, slots=True)
class Window:
    """``size`` bytes of an open file from ``start`` on.

    Attributes:
        descriptor: of the open file; whoever opened it closes it.
        start: where the part begins, bytes.
        size: its length, bytes.
    """

    descriptor: int
    start: int
    size: int

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from ``offset`` of the part on; fewer than ``size`` where the part or the file ends.

        Raises:
            OSError: the device failed.
        """
        wanted = min(size, self.size - offset)
        return os.pread(self.descriptor, wanted, self.start + offset) if wanted > 0 and offset >= 0 else b""

    def part(self, offset: int, size: int) -> Window:
        """A part of the part, cut to what is there."""
        offset = min(max(offset, 0), self.size)
        return Window(self.descriptor, self.start + offset, max(0, min(size, self.size - offset)))

    def next_data(self, offset: int) -> int:
        """The first offset from ``offset`` on that is not in a hole of a sparse file; ``size`` if none is."""
        try:
            found = os.lseek(self.descriptor, self.start + offset, os.SEEK_DATA) - self.start
        except OSError:  # ENXIO: only a hole follows; or a file system without the call
            try:
                os.lseek(self.descriptor, self.start + offset, os.SEEK_HOLE)
            except OSError:
                return self.size if self.start + offset < _end(self.descriptor) else offset
            return self.size
        return min(max(found, offset), self.size)

    def stream(self, budget: int) -> io.BufferedReader:
        """The part as a stream, for parsers that take one.

        Args:
            budget: bytes that may be read in all; one more raises `ReadBudgetExceeded`.
        """
        return io.BufferedReader(_Stream(self, budget), buffer_size=4096)


def _end(descriptor: int) -> int:
    return os.fstat(descriptor).st_size


class _Stream(io.RawIOBase):
    def __init__(self, window: Window, budget: int) -> None:
        self._window = window
        self._left = budget
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._window.size}[whence]
        if base + offset < 0:
            raise ValueError("before the beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if len(view) > self._left:
            raise ReadBudgetExceeded(f"more than {self._left} bytes")
        data = self._window.read(self._position, len(view))
        view[: len(data)] = data
        self._left -= len(data)
        self._position += len(data)
        return len(data)


@contextmanager
def opened(path: Path | str) -> Iterator[Window]:
    """The whole of a regular file.

    Raises:
        OSError: it cannot be opened, or is no regular file (a pipe would block, a device would answer).
    """
    # Not blocking: a pipe that has taken the file's place must not stop the audit.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"no regular file: {path}")
        yield Window(descriptor, 0, status.st_size)
    finally:
        os.close(descriptor)
