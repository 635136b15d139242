"""Reading ELF files: compiled ones, damaged ones, and bytes that only look like one."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.coldstart import elf
from orchestrator.coldstart.elf import NotElfError, Role, read_elf
from orchestrator.coldstart.gpu_target import GpuTarget, Variant
from orchestrator.coldstart.kernels import FileAudit, audit_file, audit_window
from orchestrator.coldstart.window import opened
from tests.coldstart.fatbins import BINARIES, EXPECTED, expected, listed
from tests.coldstart.test_fatbin import window_on

LINKED = (BINARIES / "linked.so").read_bytes()
CUBIN = (BINARIES / "sm_120a.cubin").read_bytes()


def audited(data: bytes, name: str = "file.so") -> FileAudit:
    with window_on(data) as window:
        return audit_window(window, name)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_binary_holds_what_the_compiler_was_told(name: str) -> None:
    found = audit_file(BINARIES / name)
    assert listed([module.container for module in found.modules]) == expected(name)
    assert found.problems == ()


def test_code_has_the_role_of_its_section() -> None:
    found = audit_file(BINARIES / "linked.so")
    roles = [(module.role, module.section) for module in found.modules]
    assert roles.count((Role.LINK_INPUT, "__nv_relfatbin")) == 2
    assert roles.count((Role.REGISTERED, ".nv_fatbin")) == 1
    assert (found.registrations, found.linked) == (3, 1)
    unlinked = audit_file(BINARIES / "unlinked.so")
    assert (unlinked.registrations, unlinked.linked) == (2, 0)


def test_machine_code_in_a_file_of_its_own_names_its_target() -> None:
    with opened(BINARIES / "sm_120a.cubin") as window:
        facts = read_elf(window)
    assert facts.cubin == (GpuTarget(12, 0, Variant.EXACT), (1, 8))


def test_code_outside_of_the_usual_sections_is_found() -> None:
    """A library that keeps containers as data: here by another name for the section."""
    found = audited(LINKED.replace(b".nv_fatbin\0", b".nv_hidden\0"))
    embedded = [module for module in found.modules if module.role is Role.EMBEDDED]
    assert [module.section for module in embedded] == [".nv_hidden"]


def test_a_file_without_section_headers_is_searched_whole() -> None:
    data = bytearray(LINKED)
    data[0x28:0x30] = bytes(8)  # e_shoff
    found = audited(bytes(data))
    assert len(found.modules) == 3
    assert {module.role for module in found.modules} == {Role.EMBEDDED}


def test_ptx_is_known_by_its_head() -> None:
    found = audited(b"//\n.version 8.6\n.target sm_120f, debug\n.address_size 64\n" * 3, "kernel.ptx")
    assert found.modules[0].container.entries[0].target == GpuTarget(12, 0, Variant.FAMILY)
    assert audited(b"not really PTX" * 10, "kernel.ptx").modules == ()


@pytest.mark.parametrize("at", [0, 4, 20, 64, 1000, len(LINKED) // 2, len(LINKED) - 1])
def test_a_file_that_is_cut_off_is_a_problem_or_shorter(at: int) -> None:
    found = audited(LINKED[:at])
    assert found.problems or len(found.modules) < 3


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.sampled_from([LINKED, CUBIN]),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=8)), min_size=1, max_size=8),
    st.booleans(),
)
def test_damaged_files_are_read_without_a_crash(
    whole: bytes, edits: list[tuple[int, bytes]], headers: bool
) -> None:
    data = bytearray(whole)
    for at, new in edits:
        begin = at % 64 if headers else at % len(data)
        data[begin : begin + len(new)] = new
    audited(bytes(data))


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_bytes_that_only_begin_like_an_elf_file_are_read_without_a_crash(rest: bytes) -> None:
    audited(elf.MAGIC + b"\x02\x01\x01" + rest)
    audited(elf.MAGIC + rest)


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (0x3A, struct.pack("<H", 0)),  # sections of no length
        (0x3C, struct.pack("<H", 0xFFFF)),  # far more sections than the file has room for
        (0x3E, struct.pack("<H", 0xFFF0)),  # names in a section that is none
        (0x28, struct.pack("<Q", 1 << 63)),  # sections behind the end
    ],
)
def test_headers_that_cannot_be_are_a_problem(at: int, new: bytes) -> None:
    data = bytearray(LINKED)
    data[at : at + len(new)] = new
    found = audited(bytes(data))
    assert found.problems
    assert found.modules == ()


def test_a_count_of_sections_beyond_any_file_ends_at_once(tmp_path: Path) -> None:
    """With more sections than the header's field holds, the first section's size is their number."""
    path = tmp_path / "sparse.so"
    data = bytearray(LINKED[:64])
    data[0x28:0x30] = struct.pack("<Q", 4096)
    data[0x3C:0x3E] = bytes(2)
    with path.open("wb") as file:
        file.write(bytes(data))
        file.seek(4096)
        file.write(struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 1 << 60, 0, 0, 0, 0))
        file.truncate(1 << 40)
    with opened(path) as window, pytest.raises(NotElfError, match="sections"):
        read_elf(window)


def test_names_without_an_end_stop_at_the_budget(tmp_path: Path) -> None:
    """Names are read up to a zero byte, which a damaged file may not have for gigabytes."""
    sections = struct.unpack_from("<Q", LINKED, 0x28)[0]
    count = struct.unpack_from("<H", LINKED, 0x3E)[0]
    data = bytearray(LINKED)
    names = sections + 64 * count
    data[names + 0x18 : names + 0x20] = struct.pack("<Q", len(LINKED))
    path = tmp_path / "endless.so"
    path.write_bytes(bytes(data) + b"x" * (64 << 20))
    found = audit_file(path)
    assert found.problems
