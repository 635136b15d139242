"""Where an ELF file keeps GPU code, and what it says about the CUDA runtime that it needs.

Sections, as `nvcc` writes them: ``.nv_fatbin`` holds the containers that the program registers when it
starts; ``.nvFatBinSegment`` one record of 24 bytes for each (magic 0x466243B1, version 1, or 2 for code that
was linked on the device side); ``__nv_relfatbin`` the inputs of that link, which the driver uses only where
the linked code does not fit. Libraries also keep containers as data of their own and load those that they
choose: cuFFT in ``.ldata``, cuBLASLt in ``.cask_resource``; so other sections with data are searched too.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from orchestrator.coldstart.fatbin import ALIGNMENT
from orchestrator.coldstart.gpu_target import GpuTarget, Variant, Version
from orchestrator.coldstart.window import Window
from orchestrator.errors import MissingDependencyError

MAGIC: Final = b"\x7fELF"
LINKED_VERSION: Final = 2
"""Version of a ``.nvFatBinSegment`` record whose code was linked on the device side."""

_CUDA_MACHINE: Final = 190
"""``e_machine`` of machine code for GPUs."""
_MAX_SECTIONS: Final = 1 << 16
_BUDGET_BYTES: Final = 32 << 20
"""Of headers and names that are read of one file; the largest real ones have less than 1 MiB."""
_RECORD: Final = struct.Struct("<IIQQ")
_RECORD_MAGIC: Final = 0x466243B1
_RUNTIME: Final = re.compile(r"libcudart\.so\.(\d{1,2})(?:\..*)?")
_ARCH_OPTION: Final = re.compile(rb"-arch sm_(\d{2,3}[af]?)")
_WRITE, _ALLOCATE, _EXECUTE = 0x1, 0x2, 0x4
_PROGBITS: Final = 1
_UNWIND: Final = (".eh_frame", ".gcc_except_table")


class Role(StrEnum):
    """How GPU code gets from a file to the driver."""

    REGISTERED = "registered"
    """The program registers it when it starts."""
    LINK_INPUT = "link-input"
    """What was linked into registered code; used at run time only where that does not fit."""
    EMBEDDED = "embedded"
    """Data of a library, which loads what it chooses."""
    FILE = "file"
    """The file itself is GPU code."""


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a file that may hold containers: ``size`` bytes from ``offset`` of the file on."""

    role: Role
    section: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class ElfFacts:
    """What one ELF file says.

    Attributes:
        regions: where GPU code may be.
        registrations: records by which the program registers code.
        linked: how many of them are of code that was linked on the device side.
        runtime: the major of the CUDA runtime library that the file needs, 13 for libcudart.so.13; None where
            it needs none: the runtime is linked in, or not used.
        cubin: the target, where the file itself is machine code for a GPU, with its format's version.
    """

    regions: tuple[Region, ...]
    registrations: int = 0
    linked: int = 0
    runtime: int | None = None
    cubin: tuple[GpuTarget, Version] | None = None


class NotElfError(ValueError):
    """The bytes are no ELF file that can be read; says why."""


def require() -> None:
    """Check that the library that reads ELF files is there.

    Raises:
        MissingDependencyError: it is not.
    """
    try:
        import elftools  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "the audit reads binaries with pyelftools, which is not installed",
            fix="pip install 'spark-speech[audit]'",
        ) from error


def read_elf(window: Window) -> ElfFacts:
    """Read the headers of an ELF file.

    Raises:
        NotElfError: it is damaged.
        OSError: the device failed.
    """
    with parsing():
        from elftools.elf.elffile import ELFFile

        elf: Any = ELFFile(window.stream(_BUDGET_BYTES))
        if elf["e_shoff"] == 0:  # stripped of its section headers: whatever is there may be code
            return ElfFacts((Region(Role.EMBEDDED, "", 0, window.size),))
        count = elf.num_sections()
        if count > _MAX_SECTIONS:
            raise NotElfError(f"it says that it has {count} sections")
        sections = [(elf.get_section(number), number) for number in range(count)]
        headers = [(section, section.name) for section, _ in sections]
        if elf.header["e_machine"] == "EM_CUDA" or elf.header["e_machine"] == _CUDA_MACHINE:
            return ElfFacts((), cubin=_cubin(window, elf, headers))
        regions = tuple(_regions(window, headers))
        registrations, linked = _registrations(window, headers)
        return ElfFacts(
            regions, registrations, linked, _runtime(headers) if _has_gpu_section(regions) else None
        )


def _has_gpu_section(regions: tuple[Region, ...]) -> bool:
    return any(region.role is not Role.EMBEDDED for region in regions)


@contextmanager
def parsing() -> Iterator[None]:
    """Around pyelftools, which raises whatever its parsing of damaged bytes ends in.

    Raises:
        NotElfError: it ended so.
    """
    from elftools.common.exceptions import DWARFError, ELFError
    from elftools.construct.core import ConstructError

    try:
        yield
    except NotElfError:
        raise
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        ConstructError,
        DWARFError,
        ELFError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise NotElfError(f"{type(error).__name__}: {error}"[:200]) from error


def _regions(window: Window, headers: list[tuple[Any, str]]) -> Iterator[Region]:
    for section, name in headers:
        offset, size, flags = section["sh_offset"], section["sh_size"], section["sh_flags"]
        if section["sh_type"] not in ("SHT_PROGBITS", _PROGBITS) or not size or offset >= window.size:
            continue
        # A section that holds containers is aligned like them in memory, and so in the file.
        begin = offset // ALIGNMENT * ALIGNMENT
        size = min(size, window.size - offset) + offset - begin
        if name in (".nv_fatbin", "__nv_relfatbin"):
            role = Role.REGISTERED if name == ".nv_fatbin" else Role.LINK_INPUT
            yield Region(role, name, begin, size)
        elif flags & _ALLOCATE and not flags & _EXECUTE and not name.startswith(_UNWIND):
            yield Region(Role.EMBEDDED, name, begin, size)


def _registrations(window: Window, headers: list[tuple[Any, str]]) -> tuple[int, int]:
    total = linked = 0
    for section, name in headers:
        if name == ".nvFatBinSegment":
            data = window.read(section["sh_offset"], min(section["sh_size"], _BUDGET_BYTES))
            whole = data[: len(data) // _RECORD.size * _RECORD.size]
            versions = [
                version for magic, version, *_ in _RECORD.iter_unpack(whole) if magic == _RECORD_MAGIC
            ]
            total += len(versions)
            linked += versions.count(LINKED_VERSION)
    return total, linked


def _runtime(headers: list[tuple[Any, str]]) -> int | None:
    for section, _ in headers:
        if section["sh_type"] == "SHT_DYNAMIC":
            for tag in section.iter_tags("DT_NEEDED"):
                found = _RUNTIME.fullmatch(tag.needed)
                if found is not None:
                    return int(found[1])
    return None


def _cubin(window: Window, elf: Any, headers: list[tuple[Any, str]]) -> tuple[GpuTarget, Version]:
    """Target and format of a file of machine code.

    The header's flags hold the number of the target: in their second byte in the format of CUDA 13, in their
    lowest before. Its letter is only in the compiler's options, which a note repeats.
    """
    format_version = int.from_bytes(window.read(8, 1), "little")
    flags = elf["e_flags"]
    number = flags >> 8 & 0xFF if format_version >= 8 else flags & 0xFF
    for section, name in headers:
        if name == ".note.nv.tkinfo":
            found = _ARCH_OPTION.search(window.read(section["sh_offset"], min(section["sh_size"], 1 << 16)))
            if found is not None:
                return GpuTarget.parse(found[1].decode("ascii")), (1, format_version)
    exact = format_version < 8 and flags & 0x800
    return GpuTarget.of_number(number, Variant.EXACT if exact else Variant.PORTABLE), (1, format_version)
