from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import DigestMismatchError, DiskFullError
from orchestrator.repository import storage
from orchestrator.repository.blobs import BlobStore


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "sha256")


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@given(st.binary(max_size=2000))
def test_what_is_stored_is_found_under_its_digest(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    store = BlobStore(tmp_path_factory.mktemp("blobs"))
    blob = store.add_bytes(data)
    assert blob.sha256 == hashlib.sha256(data).hexdigest()
    assert blob.size == len(data)
    found = store.find(blob.sha256)
    assert found == blob
    assert found is not None
    assert found.path.read_bytes() == data


def test_a_corrupted_file_is_found_and_gone(store: BlobStore) -> None:
    blob = store.add_bytes(b"weights")
    blob.path.chmod(0o644)
    blob.path.write_bytes(b"weighTs")
    assert store.holds(blob.sha256, 7), "the size alone does not tell"
    assert store.find(blob.sha256) is None
    assert not blob.path.exists()
    assert store.add_bytes(b"weights").path.read_bytes() == b"weights"


def test_bytes_that_are_not_the_pinned_ones_are_not_stored(store: BlobStore) -> None:
    with pytest.raises(DigestMismatchError, match="tokenizer"):
        store.add_stream(io.BytesIO(b"other"), expected="0" * 64, name="tokenizer")
    assert files_of(store.root) == []


def test_a_full_disk_leaves_nothing(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, sink: object, on_chunk: object = None) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orchestrator.repository.blobs.copy_stream", full)
    with pytest.raises(DiskFullError, match="no space"):
        store.add_bytes(b"weights")
    assert files_of(store.root) == []


def test_stored_files_are_read_only(store: BlobStore) -> None:
    assert store.add_bytes(b"x").path.stat().st_mode & 0o777 == 0o444


def test_what_an_interrupted_build_left_is_swept(store: BlobStore) -> None:
    blob = store.add_bytes(b"whole")
    (store.root / ".incoming-half").write_bytes(b"ha")
    store.sweep()
    assert files_of(store.root) == [blob.sha256]


def test_an_interrupted_atomic_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "state.json"
    storage.write_atomic(target, b"old")

    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.repository.storage.os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        storage.write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert files_of(tmp_path) == ["state.json"]
