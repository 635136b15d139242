"""What need not wait for torch, whose import takes seconds and keeps one core busy with little else.

Weights are read ahead into the system's page cache, and the driver makes the device's context (a third of a
second), which torch then finds. All of it is only a head start: whatever fails here is done again, and told,
by those who need it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from typing import Final

from orchestrator.engines.base import EngineSource

_LARGE_BYTES: Final = 1_000_000
_DRIVER: Final = "libcuda.so.1"


def begin(source: EngineSource) -> threading.Thread:
    """Read ``source``'s files ahead and, on CUDA, make the device's context; returns the thread that does."""
    thread = threading.Thread(target=_run, args=(source,), name="engine-head-start", daemon=True)
    thread.start()
    return thread


def _run(source: EngineSource) -> None:
    try:
        files = [path for path in source.folder.iterdir() if path.is_file()]
        for path in files:
            _read_ahead(path)
    except OSError:
        pass  # the engine will say what is wrong with its folder
    kind, _, number = source.device.partition(":")
    if kind == "cuda" and (not number or number.isdigit()):
        _make_context(int(number or 0))


def _read_ahead(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(handle).st_size
        if size >= _LARGE_BYTES:
            os.posix_fadvise(handle, 0, size, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(handle)


def _make_context(number: int) -> bool:
    """Make the primary context of a device, as the CUDA runtime does at its first call, and keep it."""
    try:
        driver = ctypes.CDLL(_DRIVER)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        return bool(
            driver.cuInit(0) == 0
            and driver.cuDeviceGet(ctypes.byref(device), number) == 0
            and driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
        )
    except (OSError, AttributeError):
        return False
