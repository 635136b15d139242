"""The containers in which a program carries its GPU code: the "fat binary".

No library reads them and no document describes them; this is the layout as `nvcc` writes it, checked against
`cuobjdump` for every kind below. All numbers are little-endian. A section ``.nv_fatbin`` holds any number of
containers one after another, each at a multiple of 8 bytes.

Container, 16 bytes::

    0  u32  0xBA55ED50
    4  u16  1
    6  u16  16: bytes of this header
    8  u64  bytes that follow it

Then entries until the container ends, each a header of at least 64 bytes and its code::

     0  u16  kind: 1 PTX, 2 machine code (an ELF file, "cubin"), 8 code for link-time optimisation
     2  u16  0x0101
     4  u32  bytes of this header
     8  u64  bytes of the code with its padding
    16  u32  bytes of the code when it is compressed, without padding
    20  u32  where options begin, 0 without
    24  u16  minor, u16 major: version of PTX, or of the machine code's format
    28  u32  target: 121 is sm_121
    32  u32  where a name begins, u32 its bytes
    40  u64  flags
    56  u64  bytes of the code before compression

Flags: 0x1 64 bit, 0x2000 compressed with LZ4, 0x8000 with Zstandard, 0x100000 the ``a`` and 0x200000 the
``f`` variant of the target.

Reading is bounded whatever the bytes say: a step never goes back, holes of sparse files are skipped, and no
more containers and entries are kept than any real library has.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

import numpy as np

from orchestrator.coldstart.gpu_target import GpuTarget, Variant, Version
from orchestrator.coldstart.window import BLOCK_BYTES, Window

MAGIC: Final = 0xBA55ED50
ALIGNMENT: Final = 8
"""Containers begin at multiples of this many bytes."""
MAX_CONTAINERS: Final = 200_000
"""Kept of one file: eight times what the library with the most has (cuFFT 12: 23 984)."""
MAX_ENTRIES: Final = 400_000
"""Kept of one file."""

_CONTAINER: Final = struct.Struct("<IHHQ")
_ENTRY: Final = struct.Struct("<HHIQIIHHIIIQQQ")
_OPENING_BYTES: Final = _CONTAINER.pack(MAGIC, 1, 16, 0)[:8]
_OPENING: Final = int.from_bytes(_OPENING_BYTES, "little")
_EMPTY_LIMIT: Final = 1 << 14
"""Machine code without kernels has 700 to 2 000 bytes."""
_HEADER_LIMIT: Final = 1 << 20
"""No entry's header is longer; real ones have 64 to about 200 bytes."""


class Kind(IntEnum):
    """What an entry holds; numbers not listed are read as `OTHER`."""

    OTHER = 0
    PTX = 1
    CUBIN = 2
    LTO_IR = 8


class Compression(StrEnum):
    """How an entry's code is stored."""

    NONE = "none"
    LZ4 = "lz4"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece of GPU code.

    Attributes:
        kind: what it is.
        target: what it was compiled for.
        version: of PTX, or of the machine code's format.
        bits: 32 or 64: the program's address size.
        compression: how it is stored.
        stored_bytes: its length as stored.
        size_bytes: its length as the driver reads it.
        empty: it is seen to hold no kernels: what the device link of a program without device-side calls
            leaves. Compressed code is not looked into.
    """

    kind: Kind
    target: GpuTarget
    version: Version
    bits: int
    compression: Compression
    stored_bytes: int
    size_bytes: int
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Container:
    """The versions of one module, of which the driver picks one.

    Attributes:
        offset: where it begins, bytes from the start of what was read.
        entries: its code.
        damage: what is wrong with it, None if it is sound.
    """

    offset: int
    entries: tuple[Entry, ...]
    damage: str | None = None


class Limits:
    """How much may still be kept of one file."""

    def __init__(self, containers: int = MAX_CONTAINERS, entries: int = MAX_ENTRIES) -> None:
        self.containers = containers
        self.entries = entries

    @property
    def reached(self) -> bool:
        """Whether nothing more may be kept."""
        return self.containers <= 0 or self.entries <= 0


def read_containers(window: Window, limits: Limits | None = None) -> Iterator[Container]:
    """Every container of a part of a file, in order; what lies between them is skipped.

    Raises:
        OSError: the device failed.
    """
    limits = limits or Limits()
    at = 0
    while not limits.reached:
        found = find_container(window, at)
        if found is None:
            return
        container, end = _read(window, found, limits)
        limits.containers -= 1
        yield container
        # A damaged container's length cannot be trusted: the search goes on right behind its header.
        after = end if container.damage is None else found + _CONTAINER.size
        at = -(-after // ALIGNMENT) * ALIGNMENT


def find_container(window: Window, at: int) -> int | None:
    """The offset of the first container's header from ``at``, a multiple of 8, on; None if there is none."""
    # Most containers begin where the last one ends.
    if window.read(at, ALIGNMENT) == _OPENING_BYTES:
        return at
    size = 64
    while (at := window.next_data(at) // ALIGNMENT * ALIGNMENT) < window.size:
        block = window.read(at, size)
        words = np.frombuffer(block, "<u8", count=len(block) // 8)
        hits = np.flatnonzero(words == _OPENING)
        if hits.size:
            return at + 8 * int(hits[0])
        if len(block) < size:
            return None
        at += size
        size = min(8 * size, BLOCK_BYTES)
    return None


def _read(window: Window, offset: int, limits: Limits) -> tuple[Container, int]:
    header = window.read(offset, _CONTAINER.size)
    if len(header) < _CONTAINER.size:
        return Container(offset, (), "its header is cut off"), offset
    size = _CONTAINER.unpack(header)[3]
    at, end = offset + _CONTAINER.size, offset + _CONTAINER.size + size
    if end > window.size:
        damage: str | None = f"it says {size} bytes, {window.size - at} are there"
        return Container(offset, tuple(_entries(window, at, window.size, limits)[0]), damage), end
    entries, damage = _entries(window, at, end, limits)
    return Container(offset, tuple(entries), damage), end


def _entries(window: Window, at: int, end: int, limits: Limits) -> tuple[list[Entry], str | None]:
    found: list[Entry] = []
    while at < end:
        header = window.read(at, min(_ENTRY.size, end - at))
        if len(header) < _ENTRY.size:
            return found, "an entry's header is cut off"
        kind, _, header_bytes, code_bytes, compressed, _, minor, major, number, *_, flags, _, full = (
            _ENTRY.unpack(header)
        )
        if not _ENTRY.size <= header_bytes <= _HEADER_LIMIT:
            return found, f"an entry's header says that it has {header_bytes} bytes"
        after = at + header_bytes + code_bytes
        if after > end:
            return found, "an entry's code is cut off"
        if limits.entries <= 0:
            return found, None
        limits.entries -= 1
        compression = _compression(flags)
        packed = compression is not Compression.NONE
        found.append(
            Entry(
                kind=Kind(kind) if kind in _KINDS else Kind.OTHER,
                target=GpuTarget.of_number(number, _variant(flags)),
                version=(major, minor),
                bits=64 if flags & 0x1 else 32,
                compression=compression,
                stored_bytes=compressed if packed else code_bytes,
                size_bytes=full if packed else code_bytes,
                empty=kind == Kind.CUBIN and not packed and _empty(window, at + header_bytes, code_bytes),
            )
        )
        at = after
    return found, None


def _empty(window: Window, at: int, size: int) -> bool:
    """Whether machine code has no section of instructions; larger code always has one."""
    return size <= _EMPTY_LIMIT and b".text." not in window.read(at, size)


_KINDS: Final = frozenset(int(kind) for kind in Kind)


def _variant(flags: int) -> Variant:
    if flags & 0x100000:
        return Variant.EXACT
    return Variant.FAMILY if flags & 0x200000 else Variant.PORTABLE


def _compression(flags: int) -> Compression:
    if flags & 0x8000:
        return Compression.ZSTD
    return Compression.LZ4 if flags & 0x2000 else Compression.NONE
