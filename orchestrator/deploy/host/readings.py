"""What a machine's own programs and files say about it, read without asking anything; pure.

Each function takes a text as ``nvidia-smi``, ``docker info`` or the kernel wrote it. A value that is missing
or that the program cannot tell is None, never a guess: on GB10 ``nvidia-smi`` answers ``[N/A]`` for memory,
since the GPU has none of its own, and there the kernel's ``MemAvailable`` is the figure that counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

GPU_FIELDS: Final = ("name", "compute_cap", "driver_version", "memory.total")
"""What `gpus` expects of ``nvidia-smi --query-gpu=… --format=csv,noheader,nounits``, in this order."""
_KIB: Final = 1024
_MIB: Final = 1024**2
_TCP_LISTEN: Final = "0A"
_CUDA: Final = re.compile(r"CUDA Version:\s*([0-9]+(?:\.[0-9]+)*)")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; ``memory_bytes`` is None on unified memory."""

    name: str
    capability: tuple[int, ...] | None
    driver: tuple[int, ...] | None
    memory_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """The GPU as JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Docker:
    """What the Docker daemon says: its version, the runtimes it knows, whether it can hand out GPUs."""

    version: str
    runtimes: tuple[str, ...]
    gpus: bool


def gpus(text: str) -> tuple[Gpu, ...]:
    """The GPUs in the answer to the query of `GPU_FIELDS`; lines of another shape are passed over."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == len(GPU_FIELDS) and cells[0]:
            memory = cells[3]
            found.append(
                Gpu(
                    cells[0],
                    version(cells[1]),
                    version(cells[2]),
                    int(memory) * _MIB if memory.isdigit() else None,
                )
            )
    return tuple(found)


def cuda_version(text: str) -> tuple[int, ...] | None:
    """The newest CUDA that the driver supports, from the head of what plain ``nvidia-smi`` prints."""
    match = _CUDA.search(text)
    return None if match is None else version(match[1])


def version(text: str) -> tuple[int, ...] | None:
    """``580.95.05`` as ``(580, 95, 5)``; None for what is no version, such as ``[N/A]``."""
    parts = text.split(".")
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else None


def meminfo(text: str) -> dict[str, int]:
    """``/proc/meminfo`` in bytes by name."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            found[name] = int(words[0]) * (_KIB if words[1:] == ["kB"] else 1)
    return found


def docker(text: str) -> Docker | None:
    """``docker info --format '{{json .}}'``; None when the daemon did not answer.

    A daemon can hand out GPUs through the ``nvidia`` runtime, or through the container device interface,
    whose devices newer versions list.
    """
    try:
        info = json.loads(text)
    except ValueError:
        return None
    if not isinstance(info, dict) or not info.get("ServerVersion"):
        return None
    runtimes = tuple(sorted(info.get("Runtimes") or {}))
    devices = [str(device.get("ID", "")) for device in info.get("DiscoveredDevices") or []]
    return Docker(
        str(info["ServerVersion"]),
        runtimes,
        "nvidia" in runtimes or any(device.startswith("nvidia.com/gpu") for device in devices),
    )


def listening(tables: Iterable[str]) -> dict[int, int]:
    """TCP ports that are listened on and the inode of each socket, from ``/proc/net/tcp`` and ``tcp6``."""
    found = {}
    for table in tables:
        for line in table.splitlines()[1:]:
            cells = line.split()
            if len(cells) > 9 and cells[3] == _TCP_LISTEN:
                found[int(cells[1].rpartition(":")[2], 16)] = int(cells[9])
    return found
