"""Which files an audit reads: folders with all that folders can have, and running processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.coldstart import kernel_sources
from orchestrator.coldstart.compatibility import Platform
from orchestrator.coldstart.gpu_target import GpuTarget
from orchestrator.coldstart.kernel_report import audit
from orchestrator.coldstart.kernels import audit_file
from orchestrator.errors import AuditError
from tests.coldstart.fatbins import BINARIES

LIBRARY = (BINARIES / "two_modules.so").read_bytes()
SPARK = Platform(GpuTarget(12, 1))


def names(found: kernel_sources.Found, top: Path) -> list[str]:
    return [os.path.relpath(candidate.path, top) for candidate in found.candidates]


def test_libraries_programs_and_code_are_candidates_and_nothing_else(tmp_path: Path) -> None:
    for name in ("lib.so", "lib.so.4.8.5", "kernel.cubin", "notes.txt", "data.json", "lib.sorted"):
        (tmp_path / name).write_bytes(LIBRARY)
    (tmp_path / "program").write_bytes(LIBRARY)
    (tmp_path / "program").chmod(0o755)
    (tmp_path / "tiny.so").write_bytes(b"x")
    found = kernel_sources.of_path(tmp_path)
    assert names(found, tmp_path) == ["kernel.cubin", "lib.so", "lib.so.4.8.5", "program"]


def test_a_file_is_read_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.so").write_bytes(LIBRARY)
    (tmp_path / "lib64").symlink_to("lib")
    (tmp_path / "b.so").symlink_to("lib/a.so")
    os.link(tmp_path / "lib" / "a.so", tmp_path / "lib" / "c.so")
    found = kernel_sources.of_path(tmp_path)
    assert len(found.candidates) == 1
    assert found.problems == []


def test_links_that_loop_or_lead_nowhere_end_the_walk_as_they_should(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "lib.so").write_bytes(LIBRARY)
    (tmp_path / "deep" / "up").symlink_to("..")
    (tmp_path / "self.so").symlink_to("self.so")
    (tmp_path / "gone.so").symlink_to("nothing")
    found = kernel_sources.of_path(tmp_path)
    assert names(found, tmp_path) == ["deep/lib.so"]
    assert [problem.rpartition("/")[2] for problem in found.problems] == [
        "self.so is a link that leads to itself"
    ]


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.so")
    assert kernel_sources.of_path(tmp_path).candidates == []
    assert audit_file(tmp_path / "pipe.so").problems


def test_what_cannot_be_opened_is_told_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed.so").write_bytes(LIBRARY)
    (tmp_path / "open.so").write_bytes(LIBRARY)
    real_scan, real_open = os.scandir, os.open

    # Permissions do not hold root, who runs tests in containers.
    def scan(folder: str) -> object:
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real_scan(folder)

    def open_(path: str, flags: int, *rest: int) -> int:
        if str(path).endswith("closed.so"):
            raise PermissionError(13, "Permission denied")
        return real_open(path, flags, *rest)

    monkeypatch.setattr(os, "scandir", scan)
    monkeypatch.setattr(os, "open", open_)
    report = audit("folder", kernel_sources.of_path(tmp_path), SPARK)
    assert [problem.rpartition("/")[2] for problem in report.problems] == [
        "closed cannot be listed: Permission denied"
    ]
    by_name = {Path(verdict.path).name: verdict for verdict in report.files}
    assert by_name["closed.so"].problems == ("cannot be read: Permission denied",)
    assert str(by_name["open.so"].outcome) == "native"


def test_links_of_a_container_root_do_not_lead_out_of_it(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "usr" / "lib", root / "etc", root / "proc", outside):
        folder.mkdir(parents=True)
    (outside / "host.so").write_bytes(LIBRARY)
    (root / "usr" / "lib" / "own.so").write_bytes(LIBRARY)
    (root / "usr" / "lib" / "host.so").symlink_to(outside / "host.so")
    (root / "lib").symlink_to(outside)
    (root / "proc" / "fake.so").write_bytes(LIBRARY)
    assert names(kernel_sources.of_path(root), root) == ["usr/lib/own.so"]


def test_a_name_that_is_no_text_is_shown_as_some(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.so"
    Path(os.fsdecode(path)).write_bytes(LIBRARY)
    report = audit("folder", kernel_sources.of_path(tmp_path), SPARK)
    (verdict,) = report.files
    assert verdict.path.encode("utf-8").endswith("\ufffd.so".encode())


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="No such file"):
        kernel_sources.of_path(tmp_path / "nothing")
    with pytest.raises(AuditError, match="no process"):
        kernel_sources.of_process(2**22 + 1)


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process that has a library mapped, as the loader would."""
    library = tmp_path / "lib with space.so"
    library.write_bytes(LIBRARY)
    script = (
        "import mmap, sys\n"
        "file = open(sys.argv[1], 'rb')\n"
        "held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    environment = {**os.environ, "CUDA_FORCE_PTX_JIT": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(library)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"ready\n"
    yield process, library
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


def test_a_running_process_says_what_it_has_loaded_and_under_which_switches(
    mapped: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, library = mapped
    found = kernel_sources.of_process(process.pid)
    (one,) = [candidate for candidate in found.candidates if candidate.shown == str(library)]
    assert len(audit_file(one.path, one.shown).modules) == 2
    assert found.environment is not None
    assert found.environment["CUDA_FORCE_PTX_JIT"] == "1"


def test_a_library_replaced_on_disk_is_read_as_it_runs(
    mapped: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, library = mapped
    library.unlink()
    library.write_bytes(bytes(200))
    found = kernel_sources.of_process(process.pid)
    (one,) = [candidate for candidate in found.candidates if candidate.shown.startswith(str(library))]
    seen = audit_file(one.path, one.shown)
    # Reading a map that is no longer a file needs a privilege; without it that is what is told.
    assert len(seen.modules) == 2 or seen.problems


def test_maps_of_nothing_on_disk_are_no_candidates(tmp_path: Path) -> None:
    home = tmp_path / "7"
    home.mkdir()
    (home / "environ").write_bytes(b"A=1\0B=x=y\0broken\0")
    (home / "maps").write_bytes(
        b"7f00-7f10 r-xp 00000000 08:01 42   /usr/lib/a b.so\n"
        b"7f10-7f20 r--p 00001000 08:01 42   /usr/lib/a b.so\n"
        b"7f20-7f30 rw-p 00000000 00:00 0\n"
        b"7f30-7f40 rw-s 00000000 00:05 9    /dev/nvidia0\n"
        b"7f40-7f50 rw-s 00000000 00:05 9    /memfd:cuda (deleted)\n"
        b"7ffd-7ffe r-xp 00000000 00:00 0    [vdso]\n"
        b"7f50-7f60 r-xp 00000000 08:01 43   /usr/lib/old.so (deleted)\n"
    )
    found = kernel_sources.of_process(7, proc=tmp_path)
    assert [candidate.shown for candidate in found.candidates] == [
        "/usr/lib/a b.so",
        "/usr/lib/old.so (deleted)",
    ]
    assert found.candidates[1].path == str(home / "map_files" / "7f50-7f60")
    assert found.environment == {"A": "1", "B": "x=y"}
