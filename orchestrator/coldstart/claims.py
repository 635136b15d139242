"""What a program is told the GPU is, as far as it can be seen: it has no say in which code is loaded.

The driver compares the code in a file with the GPU that it drives. A library that is preloaded to answer the
question for the capability differently changes what programs decide by themselves (which kernels to ask for),
not what the driver loads.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from orchestrator.coldstart.elf import NotElfError, parsing
from orchestrator.coldstart.gpu_target import GpuTarget
from orchestrator.coldstart.kernels import printable
from orchestrator.coldstart.window import opened

_ANSWERS: Final = frozenset(
    {
        "cuDeviceComputeCapability",
        "cuDeviceGetAttribute",
        "cudaDeviceGetAttribute",
        "cudaGetDeviceProperties",
        "cudaGetDeviceProperties_v2",
    }
)
"""The calls that say which GPU this is."""
_BUDGET_BYTES: Final = 64 << 20


def claim_note(claimed: GpuTarget, gpu: GpuTarget) -> str:
    """What it does to tell a program that the GPU is another one."""
    return (
        f"telling the program that this is {claimed} has no effect on which code is loaded: the driver"
        f" compares it with the real GPU, so the verdicts are those for {gpu}"
    )


def preload_notes(environment: Mapping[str, str], root: Path = Path("/")) -> list[str]:
    """Notes on preloaded libraries that answer for the driver which GPU this is.

    Args:
        environment: of the process.
        root: where its files are.
    """
    notes = []
    for name in environment.get("LD_PRELOAD", "").replace(":", " ").split():
        path = root / name.lstrip("/") if name.startswith("/") else None
        answered = sorted(_defined(path) & _ANSWERS) if path is not None else []
        if answered:
            notes.append(
                f"{printable(name)} is preloaded and answers {', '.join(answered)} in the driver's place:"
                " that has no effect on which code is loaded, the driver compares it with the real GPU"
            )
    return notes


def _defined(path: Path) -> set[str]:
    """Names of the functions that a library exports; none of one that cannot be read."""
    try:
        with opened(path) as window, parsing():
            from elftools.elf.elffile import ELFFile

            elf: Any = ELFFile(window.stream(_BUDGET_BYTES))
            table = elf.get_section_by_name(".dynsym")
            if table is None:
                return set()
            return {symbol.name for symbol in table.iter_symbols() if symbol["st_shndx"] != "SHN_UNDEF"}
    except (OSError, NotElfError, struct.error):
        return set()
