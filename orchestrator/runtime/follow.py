"""A log file on another stream as it grows, for whoever keeps the starter's output: journald, docker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

_POLL_S: Final = 0.5
_PIECE_BYTES: Final = 1024**2


@contextmanager
def followed(path: Path, target: TextIO) -> Iterator[None]:
    """Copy ``path`` to ``target``, from its beginning, until the block ends; what it held then comes too.

    A file that cannot be read is passed over, and a target that is closed ends the copying: neither may end
    the server that writes the log.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_copy, args=(path, target, ended), name="log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _copy(path: Path, target: TextIO, ended: threading.Event) -> None:
    try:
        with path.open(encoding="utf-8", errors="replace") as source:
            last = False
            while True:
                while piece := source.read(_PIECE_BYTES):
                    target.write(piece)
                target.flush()
                if last:
                    return
                last = ended.wait(_POLL_S)
    except (OSError, ValueError):  # ValueError: written to after it was closed
        return
