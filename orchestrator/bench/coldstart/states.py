"""What a starting process finds: caches of compiled code, and files in memory or only on disk."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

from orchestrator.coldstart.cuda_cache import cuda_environment


class CacheState(StrEnum):
    """What is warm when the process starts."""

    COLD = "cold"
    """Nothing: no compiled code is kept, and files come from disk."""
    DISK = "warm disk"
    """Compiled code is kept; files come from disk, as after a reboot."""
    MEMORY = "warm memory"
    """Compiled code is kept, and files are in memory, as after a restart of the service."""
    FORCED = "warm, CUDA_FORCE_PTX_JIT=1"
    """As `MEMORY`, with the switch that ignores kept and shipped machine code."""


def prepare(state: CacheState, cache: Path, files: Iterable[Path]) -> dict[str, str]:
    """Bring the caches into a state; returns the environment of the process to start.

    Args:
        state: what is to be warm.
        cache: the folder of compiled code; emptied for a cold start, else as the last start left it.
        files: folders whose files the process reads.
    """
    if state is CacheState.COLD:
        shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    if state in (CacheState.COLD, CacheState.DISK):
        os.sync()  # what was written just now stays in memory until it is on disk
        forget((*files, cache))
    environment = {**os.environ, **cuda_environment(cache)}
    if state is CacheState.FORCED:
        environment["CUDA_FORCE_PTX_JIT"] = "1"
    return environment


def packages() -> tuple[Path, ...]:
    """This Python's packages and its standard library, which every start reads."""
    return Path(sys.prefix) / "lib", Path(sysconfig.get_path("stdlib"))


def forget(folders: Iterable[Path]) -> int:
    """Ask the kernel to drop files from memory; returns how many were asked for.

    What another process has mapped stays: on a machine that serves, cold is a little warmer than said.
    """
    count = 0
    for path in _files(folders):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:  # gone, or not ours to read: then this process does not read it either
            continue
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            count += 1
        finally:
            os.close(descriptor)
    return count


def _files(folders: Iterable[Path]) -> Iterator[str]:
    for folder in folders:
        for top, _, names in os.walk(folder):
            for name in names:
                path = Path(top) / name
                try:
                    regular = stat.S_ISREG(path.stat().st_mode)
                except OSError:
                    continue
                if regular:
                    yield str(path)
