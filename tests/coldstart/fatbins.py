"""Containers of GPU code written by the tests themselves, and the compiled ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

from orchestrator.coldstart.fatbin import Compression, Container, Entry, Kind
from orchestrator.coldstart.gpu_target import GpuTarget, Variant, Version
from orchestrator.coldstart.kernel_words import entry_target

BINARIES = Path(__file__).parent / "binaries"
EXPECTED: dict[str, list[list[list[str]]]] = json.loads((BINARIES / "expected.json").read_text())

_FLAGS = {Compression.NONE: 0, Compression.LZ4: 0x2000, Compression.ZSTD: 0x8000}
_LETTERS = {Variant.PORTABLE: 0, Variant.EXACT: 0x100000, Variant.FAMILY: 0x200000}


def make_entry(
    target: str,
    *,
    version: Version | None = None,
    bits: int = 64,
    compression: Compression = Compression.NONE,
    stored: int = 64,
    size: int | None = None,
) -> Entry:
    """From ``sm_90a``, ``compute_86`` or ``lto_120``."""
    kind = {"sm": Kind.CUBIN, "compute": Kind.PTX, "lto": Kind.LTO_IR}[target.partition("_")[0]]
    default = {Kind.CUBIN: (1, 8), Kind.PTX: (9, 0), Kind.LTO_IR: (1, 65)}[kind]
    return Entry(kind, GpuTarget.parse(target), version or default, bits, compression, stored, size or stored)


def packed(entry: Entry) -> bytes:
    """One entry as it lies in a file; the code is filled with a pattern that has an instruction section."""
    compressed = entry.compression is not Compression.NONE
    length = -(-entry.stored_bytes // 8) * 8 if compressed else entry.stored_bytes
    flags = _FLAGS[entry.compression] | _LETTERS[entry.target.variant] | (entry.bits == 64)
    header = struct.pack(
        "<HHIQIIHHIIIQQQ",
        entry.kind,
        0x101,
        64,
        length,
        entry.stored_bytes if compressed else 0,
        0,
        entry.version[1],
        entry.version[0],
        entry.target.major * 10 + entry.target.minor,
        0,
        0,
        flags,
        0,
        entry.size_bytes if compressed else 0,
    )
    return header + (b".text.x\0" * (length // 8 + 1))[:length]


def container(entries: Sequence[Entry]) -> bytes:
    """A container, padded to where the next may begin."""
    body = b"".join(map(packed, entries))
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body + bytes(-len(body) % 8)


def listed(containers: Sequence[Container]) -> list[list[tuple[str, str, str]]]:
    """What `binaries/expected.json` says of them, in any order."""
    return sorted(
        sorted(
            (entry.kind.name.lower(), entry_target(entry), str(entry.compression)) for entry in one.entries
        )
        for one in containers
    )


def expected(name: str) -> list[list[tuple[str, str, str]]]:
    """What the compiler was told to put into a binary, as `listed` has it."""
    return sorted(sorted((kind, target, how) for kind, target, how in one) for one in EXPECTED[name])
