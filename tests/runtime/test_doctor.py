"""Every check tells a fit machine from an unfit one, and what to do."""

from __future__ import annotations

import importlib.metadata
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from orchestrator.errors import TritonNotFoundError
from orchestrator.repository.release import ReleaseStore
from orchestrator.runtime import doctor
from orchestrator.runtime.doctor import Level, examine
from orchestrator.settings import ServerSettings, Settings


def installed(**versions: str) -> Callable[[str], str]:
    def version_of(name: str) -> str:
        try:
            return versions[name.replace("-", "_").replace(".", "_")]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(name) from None

    return version_of


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.parametrize(
    ("version", "level"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 12), "ok"), ((3, 13), "fail")]
)
def test_python(version: tuple[int, int], level: str) -> None:
    assert doctor.check_python(version).level == level


@pytest.mark.parametrize(
    ("torch", "torchaudio", "level"),
    [
        ("2.11.0", "2.11.0", "ok"),
        ("2.11.0+cu130", "2.11.0+cu130", "ok"),
        ("2.11.1+cu130", "2.11.0+cu130", "ok"),
        ("2.12.0", "2.11.0", "fail"),
        ("2.11.0+cpu", "2.11.0+cu130", "fail"),
    ],
)
def test_torch_and_torchaudio_must_fit(torch: str, torchaudio: str, level: str) -> None:
    assert doctor.check_torch_pair(installed(torch=torch, torchaudio=torchaudio)).level == level


def test_missing_packages_are_named() -> None:
    found = doctor.check_packages(installed(torch="2.11.0", pip="25", moonshine_voice="0.1.0"))
    assert found.level is Level.WARN
    assert found.message == "not installed: nemo-toolkit, pyannote.audio, torchaudio"
    assert "spark-speech[serve]" in (found.fix or "")


def test_packages_without_byte_code_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "packages" / "heavy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(sys, "pycache_prefix", None)
    found = doctor.check_byte_code("heavy")
    assert found.level == "warn"
    assert found.fix is not None
    subprocess.run(found.fix.split(), check=True, timeout=60)
    assert doctor.check_byte_code("heavy").level == "ok"
    assert doctor.check_byte_code("nothing_of_this_name").level == "ok"


def test_a_missing_libpython_fails_with_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise TritonNotFoundError("it is missing", fix="apt-get install libpython3.11")

    monkeypatch.setattr(doctor.triton, "libpython_folder", missing)
    assert doctor.check_libpython().to_dict() == {
        "name": "libpython",
        "level": "fail",
        "message": "it is missing",
        "fix": "apt-get install libpython3.11",
    }


def test_a_taken_port_fails(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        settings = Settings(paths={"home": tmp_path}, server=ServerSettings(metrics_port=port))  # type: ignore[arg-type]
        found = doctor.check_free_ports(settings)
    assert found.level is Level.FAIL
    assert str(port) in found.message
    assert "server.metrics_port" in (found.fix or "")


def test_no_release_is_a_warning_and_a_damaged_one_a_failure(tmp_path: Path) -> None:
    assert doctor.check_release(tmp_path).level is Level.WARN
    releases = ReleaseStore(tmp_path).folder
    (releases / "abc").mkdir(parents=True)
    (releases / "abc" / "manifest.json").write_text("{}")
    (releases / "current").symlink_to("abc")
    found = doctor.check_release(tmp_path)
    assert found.level is Level.FAIL
    assert "build" in (found.fix or "")


@pytest.mark.parametrize(("free_gib", "level"), [(0.1, "fail"), (1, "warn"), (50, "ok")])
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gib: float, level: str) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(0, 0, int(free_gib * 1024**3)))
    assert doctor.check_disk(tmp_path / "not" / "there" / "yet").level == level


def test_dockers_default_shared_memory_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(64 * 1024**2, 0, 0))
    found = doctor.check_shared_memory()
    assert found.level is Level.WARN
    assert "--shm-size" in (found.fix or "")


def test_no_gpu_is_well_and_a_broken_driver_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.check_gpu().level is Level.OK
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    assert doctor.check_gpu().level is Level.WARN
    tool.write_text("#!/bin/sh\necho 'NVIDIA GB10, 12.1, 580.95'\n")
    assert "GB10" in doctor.check_gpu().message


def test_every_failure_and_warning_says_what_to_do(tmp_path: Path) -> None:
    for check in examine(Settings(paths={"home": tmp_path})):  # type: ignore[arg-type]
        assert check.fix is not None or check.level is Level.OK
