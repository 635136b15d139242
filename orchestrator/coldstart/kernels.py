"""The GPU code of one file, whatever it is: library, program, machine code, PTX or a bare container."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.coldstart import elf, fatbin
from orchestrator.coldstart.elf import Role
from orchestrator.coldstart.fatbin import Compression, Container, Entry, Kind
from orchestrator.coldstart.gpu_target import GpuTarget
from orchestrator.coldstart.window import Window, opened
from orchestrator.errors import ConfigurationError

_CONTAINER_MAGIC: Final = struct.pack("<I", fatbin.MAGIC)
_PTX_HEAD_BYTES: Final = 1 << 16
"""A file of PTX names its version and target after at most this much of comments."""
_PTX_HEAD: Final = re.compile(
    rb"^\s*\.version\s+(\d{1,3})\.(\d{1,3})\s*$.*?^\s*\.target\s+(sm_\d{2,3}[af]?)\b", re.M | re.S
)
_MAX_PROBLEMS: Final = 5
"""Damages of one file that are told; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Module:
    """GPU code that the driver loads as one, in the versions that a file has of it.

    Attributes:
        role: how it gets to the driver.
        section: of the ELF file; empty outside of one.
        container: its versions.
    """

    role: Role
    section: str
    container: Container


@dataclass(frozen=True, slots=True)
class FileAudit:
    """What a file holds.

    Attributes:
        path: of the file, as it is to be shown.
        size: bytes.
        modules: its GPU code.
        registrations: how much of it the program registers when it starts, by its own records.
        linked: how many of those were linked on the device side.
        runtime: the major of the CUDA runtime library that the file needs, None if none.
        problems: what could not be read.
    """

    path: str
    size: int
    modules: tuple[Module, ...] = ()
    registrations: int = 0
    linked: int = 0
    runtime: int | None = None
    problems: tuple[str, ...] = ()

    @property
    def relevant(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.modules or self.problems)


def audit_file(path: Path | str, shown: str | None = None) -> FileAudit:
    """Read one file; what cannot be read is a problem of the result.

    Args:
        path: where it can be opened.
        shown: what to call it, by default its path.
    """
    name = shown if shown is not None else printable(str(path))
    try:
        with opened(path) as window:
            return audit_window(window, name)
    except OSError as error:
        return FileAudit(name, 0, problems=(f"cannot be read: {error.strerror or error}",))


def audit_window(window: Window, name: str) -> FileAudit:
    """Read a file, or a part of an archive.

    Raises:
        OSError: the device failed.
    """
    head = window.read(0, 4)
    if head == elf.MAGIC:
        try:
            return _audit_elf(window, name)
        except elf.NotElfError as error:
            return FileAudit(name, window.size, problems=(f"is a damaged ELF file: {error}",))
    if head == _CONTAINER_MAGIC:
        modules = _modules(window, elf.Region(Role.FILE, "", 0, window.size), fatbin.Limits())
        return FileAudit(name, window.size, tuple(modules), problems=_problems(modules))
    if name.endswith(".ptx"):
        return _audit_ptx(window, name)
    return FileAudit(name, window.size)


def _audit_elf(window: Window, name: str) -> FileAudit:
    facts = elf.read_elf(window)
    if facts.cubin is not None:
        target, version = facts.cubin
        entry = Entry(Kind.CUBIN, target, version, 64, Compression.NONE, window.size, window.size)
        return FileAudit(name, window.size, (Module(Role.FILE, "", Container(0, (entry,))),))
    limits = fatbin.Limits()
    modules: list[Module] = []
    # What the program registers comes first, so that a flood of anything else cannot crowd it out.
    for region in sorted(facts.regions, key=lambda region: region.role is Role.EMBEDDED):
        modules += _modules(window, region, limits)
    problems = _problems(modules)
    if limits.reached:
        problems = (*problems, "holds more GPU code than is read; the rest was left out")
    return FileAudit(
        name, window.size, tuple(modules), facts.registrations, facts.linked, facts.runtime, problems
    )


def _modules(window: Window, region: elf.Region, limits: fatbin.Limits) -> list[Module]:
    found = []
    for container in fatbin.read_containers(window.part(region.offset, region.size), limits):
        # A chance match in data has no entries; an empty container that is registered is what linking leaves.
        if container.entries or (container.damage is not None and region.role is not Role.EMBEDDED):
            found.append(Module(region.role, region.section, container))
    return found


def _problems(modules: list[Module]) -> tuple[str, ...]:
    damaged = [module for module in modules if module.container.damage is not None]
    told = [
        f"{module.section or 'the file'}: the container at byte {module.container.offset} is damaged:"
        f" {module.container.damage}"
        for module in damaged[:_MAX_PROBLEMS]
    ]
    if len(damaged) > _MAX_PROBLEMS:
        told.append(f"{len(damaged) - _MAX_PROBLEMS} more containers are damaged")
    return tuple(told)


def _audit_ptx(window: Window, name: str) -> FileAudit:
    found = _PTX_HEAD.search(window.read(0, _PTX_HEAD_BYTES))
    if found is None:
        return FileAudit(name, window.size)
    try:
        target = GpuTarget.parse(found[3].decode("ascii"))
    except ConfigurationError:
        return FileAudit(name, window.size)
    version = int(found[1]), int(found[2])
    entry = Entry(Kind.PTX, target, version, 64, Compression.NONE, window.size, window.size)
    return FileAudit(name, window.size, (Module(Role.FILE, "", Container(0, (entry,))),))


def printable(path: str) -> str:
    """A path that any terminal and JSON can carry: bytes that are no UTF-8 are replaced."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
