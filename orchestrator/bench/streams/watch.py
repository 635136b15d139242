"""What a server uses while it is under load: processor time, memory, and its share of the GPU."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psutil

_EVERY_S: Final = 0.25
MEBIBYTE: Final = 2**20


@dataclass(slots=True)
class Usage:
    """Of a server and all its children, while it was watched.

    Attributes:
        wall_s: how long that was.
        server_cpu_s: processor seconds of the server itself.
        models_cpu_s: of its children, which run the models' Python.
        resident_mib: the highest resident memory; pages that processes share count for each.
        gpu_shares: samples of how much of the time a kernel ran, 0..1; none where there is no GPU.
        gpu_memory_mib: the highest memory in use on the GPU, by all processes.
    """

    wall_s: float = 0.0
    server_cpu_s: float = 0.0
    models_cpu_s: float = 0.0
    resident_mib: float = 0.0
    gpu_shares: list[float] = field(default_factory=list)
    gpu_memory_mib: float = 0.0

    @property
    def gpu_share(self) -> float | None:
        """The mean of the samples."""
        return sum(self.gpu_shares) / len(self.gpu_shares) if self.gpu_shares else None


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Gpu:
    """The first GPU of this machine, through NVIDIA's management library (NVML), which the driver brings."""

    def __init__(self, library: Any, handle: ctypes.c_void_p) -> None:
        self._library = library
        self._handle = handle

    @classmethod
    def find(cls) -> Gpu | None:
        """The GPU; None where there is none."""
        try:
            library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return None
        handle = ctypes.c_void_p()
        if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)):
            return None
        return cls(library, handle)

    def sample(self) -> tuple[float, float] | None:
        """Share of the last moments in which a kernel ran, and MiB in use; None where it does not say."""
        busy, memory = _Utilization(), _Memory()
        if self._library.nvmlDeviceGetUtilizationRates(
            self._handle, ctypes.byref(busy)
        ) or self._library.nvmlDeviceGetMemoryInfo(self._handle, ctypes.byref(memory)):
            return None
        return busy.gpu / 100, memory.used / MEBIBYTE


@contextmanager
def watching(pid: int, gpu: Gpu | None = None) -> Iterator[Usage]:
    """Watch process ``pid``, its children and ``gpu`` until the block ends; the result is complete then."""
    usage = Usage()
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(_EVERY_S):
            usage.resident_mib = max(usage.resident_mib, resident_mib(pid))
            found = gpu.sample() if gpu is not None else None
            if found is not None:
                usage.gpu_shares.append(found[0])
                usage.gpu_memory_mib = max(usage.gpu_memory_mib, found[1])

    thread = threading.Thread(target=sample, name="watch", daemon=True)
    began, before = time.monotonic(), cpu_seconds(pid)
    thread.start()
    try:
        yield usage
    finally:
        ended.set()
        thread.join()
        after = cpu_seconds(pid)
        usage.wall_s = time.monotonic() - began
        usage.server_cpu_s = after[0] - before[0]
        usage.models_cpu_s = after[1] - before[1]
        usage.resident_mib = max(usage.resident_mib, resident_mib(pid))


def resident_mib(pid: int) -> float:
    """Resident memory of a process and its children; 0 where it is gone."""
    return sum(_resident(process) for process in _tree(pid)) / MEBIBYTE


def cpu_seconds(pid: int) -> tuple[float, float]:
    """Processor seconds so far, of a process and of its living children."""
    tree = [_cpu(process) for process in _tree(pid)]
    return sum(tree[:1]), sum(tree[1:])


def _tree(pid: int) -> list[psutil.Process]:
    """The process first, then its children and theirs."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def _cpu(process: psutil.Process) -> float:
    try:
        spent = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return spent.user + spent.system
