"""Reading containers of GPU code: what compilers write, what tests write, and what nobody should."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.coldstart import fatbin
from orchestrator.coldstart.fatbin import Compression, Container, Entry, Kind, Limits, read_containers
from orchestrator.coldstart.gpu_target import GpuTarget, Variant
from orchestrator.coldstart.window import Window, opened
from tests.coldstart.fatbins import BINARIES, container, expected, listed, make_entry, packed

FATBINS = sorted(path.name for path in BINARIES.glob("*.fatbin"))

entries = st.builds(
    Entry,
    kind=st.sampled_from([Kind.PTX, Kind.CUBIN, Kind.LTO_IR]),
    target=st.builds(GpuTarget, st.integers(1, 99), st.integers(0, 9), st.sampled_from(list(Variant))),
    version=st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    bits=st.sampled_from([32, 64]),
    compression=st.sampled_from(list(Compression)),
    stored_bytes=st.integers(1, 40).map(lambda n: 8 * n),
    size_bytes=st.just(0),
)


def sized(entry: Entry) -> Entry:
    """Code that is not compressed is as long as it is stored."""
    full = entry.stored_bytes if entry.compression is Compression.NONE else entry.stored_bytes * 3
    return Entry(
        entry.kind, entry.target, entry.version, entry.bits, entry.compression, entry.stored_bytes, full
    )


@contextmanager
def window_on(data: bytes) -> Iterator[Window]:
    descriptor = os.memfd_create("fatbin")
    try:
        os.write(descriptor, data)
        yield Window(descriptor, 0, len(data))
    finally:
        os.close(descriptor)


def read(data: bytes) -> list[Container]:
    with window_on(data) as window:
        return list(read_containers(window))


@pytest.mark.parametrize("name", FATBINS)
def test_what_the_compiler_wrote_is_listed(name: str) -> None:
    with opened(BINARIES / name) as window:
        found = list(read_containers(window))
    assert listed(found) == expected(name)
    assert all(one.damage is None for one in found)


def test_versions_sizes_and_bits_of_what_the_compiler_wrote() -> None:
    with opened(BINARIES / "smallest.fatbin") as window:
        (one,) = read_containers(window)
    by_kind = {entry.kind: entry for entry in one.entries}
    assert by_kind[Kind.PTX].version == (9, 0)
    assert by_kind[Kind.CUBIN].version == (1, 8)
    with opened(BINARIES / "uncompressed.fatbin") as window:
        (plain,) = read_containers(window)
    full = {entry.kind: entry.size_bytes for entry in plain.entries}
    for kind, entry in by_kind.items():
        assert entry.bits == 64
        assert 0 < entry.stored_bytes < entry.size_bytes
        # The same code, compressed: padding is all that may differ.
        assert abs(entry.size_bytes - full[kind]) < 16


@given(st.lists(st.lists(entries.map(sized), max_size=4), max_size=5), st.integers(0, 5))
def test_what_is_written_is_read(groups: list[list[Entry]], gap: int) -> None:
    data = (bytes(8 * gap)).join(container(group) for group in groups)
    found = read(data)
    assert [list(one.entries) for one in found] == groups
    assert all(one.damage is None for one in found)


@given(st.lists(entries.map(sized), min_size=1, max_size=4), st.data())
def test_a_cut_loses_only_what_is_cut_off(group: list[Entry], data: st.DataObject) -> None:
    whole = container(group)
    at = data.draw(st.integers(16, len(whole) - 1))
    found = read(whole[:at])
    ends = [16 + sum(len(packed(one)) for one in group[: number + 1]) for number in range(len(group))]
    kept = sum(end <= at for end in ends)
    assert [list(one.entries) for one in found] == [group[:kept]]
    assert found[0].damage is not None


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=600), st.lists(st.tuples(st.integers(0, 5000), st.binary(min_size=1, max_size=8))))
def test_any_bytes_are_read_without_a_crash(noise: bytes, edits: list[tuple[int, bytes]]) -> None:
    sound = container([make_entry("sm_90"), make_entry("compute_90")])
    data = bytearray(sound + noise + sound * 3)
    for at, new in edits:
        data[at % len(data) : at % len(data) + len(new)] = new
    for one in read(bytes(data)):
        assert one.offset % 8 == 0
        assert all(entry.bits in (32, 64) for entry in one.entries)


def test_after_damage_the_next_container_is_found() -> None:
    good = container([make_entry("sm_90")])
    bad = bytearray(good)
    bad[20:24] = struct.pack("<I", 3)  # a header of three bytes
    found = read(bytes(bad) + good)
    assert [one.damage is None for one in found] == [False, True]
    assert found[1].entries[0].target == GpuTarget(9, 0)


@pytest.mark.parametrize(
    ("at", "new", "said"),
    [
        (8, struct.pack("<Q", 1 << 62), "it says"),
        (20, struct.pack("<I", 0), "header says that it has 0"),
        (20, struct.pack("<I", 1 << 31), "header says"),
        (24, struct.pack("<Q", (1 << 64) - 1), "cut off"),
    ],
)
def test_lengths_that_cannot_be_are_damage(at: int, new: bytes, said: str) -> None:
    data = bytearray(container([make_entry("sm_90")]))
    data[at : at + len(new)] = new
    (one,) = read(bytes(data))
    assert one.damage is not None
    assert said in one.damage


def test_no_more_is_kept_than_the_limits_allow() -> None:
    data = container([]) * 50 + container([make_entry("sm_90")] * 50)
    with window_on(data) as window:
        assert len(list(read_containers(window, Limits(containers=10, entries=5)))) == 10
        limits = Limits(containers=100, entries=5)
        kept = list(read_containers(window, limits))
    assert sum(len(one.entries) for one in kept) == 5
    assert limits.reached


def test_a_flood_of_headers_is_read_a_few_times_over_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each opens a container that says it has no end: the worst for a reader that searches again."""
    header = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 1 << 60)
    data = (header + bytes(72)) * 3_000
    total = 0
    pread = os.pread

    def counted(descriptor: int, size: int, at: int) -> bytes:
        nonlocal total
        block = pread(descriptor, size, at)
        total += len(block)
        return block

    monkeypatch.setattr(os, "pread", counted)
    assert len(read(data)) == 3_000
    assert total < 10 * len(data)


def test_holes_of_sparse_files_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.seek((1 << 40) - 4096)
        file.write(container([make_entry("sm_120")]))
    with opened(path) as window:
        (one,) = read_containers(window)
    assert one.entries[0].target == GpuTarget(12, 0)


def test_a_container_that_claims_a_sparse_terabyte_has_no_entries_in_its_holes(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(struct.pack("<IHHQ", fatbin.MAGIC, 1, 16, 1 << 39))
        file.truncate(1 << 40)
    with opened(path) as window:
        (one,) = read_containers(window)
    assert one.entries == ()
    assert one.damage is not None


def test_code_without_kernels_is_seen_as_empty() -> None:
    with opened(BINARIES / "linked.so") as window:
        found = list(read_containers(window))
    assert not any(entry.empty for one in found for entry in one.entries)
    hollow = bytearray(container([make_entry("sm_75", stored=64)]))
    hollow[-64:] = bytes(64)
    (one,) = read(bytes(hollow))
    assert one.entries[0].empty
