from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from orchestrator.deploy.host import processes
from orchestrator.deploy.host.mode import choose
from orchestrator.errors import HostError

GIB = 1024**3


def test_available_memory_as_a_gb10_tells_it(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(
        "MemTotal:       125513432 kB\nMemFree:        2913208 kB\nMemAvailable:   118734592 kB\n"
    )
    assert processes.mem_available_bytes(tmp_path) == 118734592 * 1024
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")
    with pytest.raises(HostError, match="MemAvailable"):
        processes.mem_available_bytes(tmp_path)


def test_memory_of_processes_counts_shared_pages_once(tmp_path: Path) -> None:
    for pid, kib in ((7, 100), (8, 23)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "smaps_rollup").write_text(f"Rss: 900 kB\nPss:    {kib} kB\nPss_Anon: 7 kB\n")
    assert processes.pss_bytes([7, 8, 9], tmp_path) == 123 * 1024


def test_the_server_is_found_by_its_name_and_its_environment_read() -> None:
    server = subprocess.Popen(
        ["tritonserver", "-c", "read x"],
        executable="/bin/bash",
        stdin=subprocess.PIPE,
        env={"CUDA_FORCE_PTX_JIT": "0", "TWO": "a=b"},
    )
    try:
        deadline = time.monotonic() + 20
        while processes.server_pid([server.pid]) is None:  # its arguments show a moment after it began
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert processes.server_pid([os.getpid(), server.pid]) == server.pid
        found = processes.environment_of(server.pid)
        assert (found["CUDA_FORCE_PTX_JIT"], found["TWO"]) == ("0", "a=b")
    finally:
        server.communicate(b"\n")
    assert processes.server_pid([os.getpid()]) is None
    with pytest.raises(HostError):
        processes.environment_of(server.pid)


@pytest.mark.parametrize(
    ("wanted", "serving", "available", "footprint", "mode"),
    [
        ("auto", True, 20, 12, "blue_green"),
        ("auto", True, 20, 13, "in_place"),
        ("auto", False, 1, 0, "blue_green"),
        ("blue_green", True, 20, 19, "blue_green"),
        ("in_place", True, 90, 1, "in_place"),
        ("in_place", False, 90, 1, "blue_green"),
    ],
)
def test_two_stacks_beside_each_other_where_memory_allows(
    wanted: str, serving: bool, available: int, footprint: int, mode: str
) -> None:
    chosen, reason = choose(
        wanted,
        serving=serving,
        available_bytes=available * GIB,
        footprint_bytes=footprint * GIB,
        floor_bytes=8 * GIB,
    )
    assert chosen == mode
    assert ("floor is 8.0 GiB" in reason) is serving
