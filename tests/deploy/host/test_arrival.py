"""Releases that arrive on a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.deploy.host import arrival
from orchestrator.deploy.host.layout import Layout
from orchestrator.errors import ReleaseCorruptError, ReleaseNotFoundError
from orchestrator.repository.integrity import sha256_of
from orchestrator.repository.manifest import FileEntry, Manifest, ModelEntry


def bring(home: Path, content: bytes = b"weights") -> str:
    """Put a release where what arrives lies; its id."""
    source = home / "source"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(content)
    model = ModelEntry(
        name="m", task="t", engine="e", source="local", revision=None, packages={}, settings={}
    )
    manifest = Manifest.create(
        target="aarch64",
        device="cpu",
        packages={},
        models=(model,),
        files=(FileEntry(path="m/1/weights", sha256=sha256_of(source), size=len(content)),),
    )
    folder = home / "incoming" / "releases" / manifest.id
    (folder / "model_repository" / "m" / "1").mkdir(parents=True)
    source.rename(folder / "model_repository" / "m" / "1" / "weights")
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return manifest.id


def weights(home: Path, release: str, folder: str = "") -> Path:
    return home / folder / "releases" / release / "model_repository" / "m" / "1" / "weights"


def test_a_whole_release_gets_its_name(tmp_path: Path) -> None:
    release = bring(tmp_path)
    found = arrival.publish(Layout(tmp_path), release, check=False)
    assert found["changed"]
    assert weights(tmp_path, release).read_bytes() == b"weights"
    assert not (tmp_path / "incoming").exists()
    again = arrival.publish(Layout(tmp_path), release, check=False)
    assert not again["changed"]


def test_a_damaged_release_gets_none_and_goes(tmp_path: Path) -> None:
    release = bring(tmp_path)
    weights(tmp_path, release, "incoming").write_bytes(b"weightS")
    with pytest.raises(ReleaseCorruptError, match="weights"):
        arrival.publish(Layout(tmp_path), release, check=False)
    assert not (tmp_path / "releases" / release).exists()
    assert not (tmp_path / "incoming" / "releases" / release).exists()


def test_a_damaged_one_in_place_is_replaced(tmp_path: Path) -> None:
    release = bring(tmp_path)
    arrival.publish(Layout(tmp_path), release, check=False)
    weights(tmp_path, release).write_bytes(b"broken!")
    assert bring(tmp_path) == release
    assert arrival.publish(Layout(tmp_path), release, check=False)["changed"]
    assert weights(tmp_path, release).read_bytes() == b"weights"
    assert [path.name for path in (tmp_path / "releases").iterdir()] == [release]


def test_nothing_has_arrived(tmp_path: Path) -> None:
    with pytest.raises(ReleaseNotFoundError):
        arrival.publish(Layout(tmp_path), "0" * 64, check=False)


def test_check_changes_nothing(tmp_path: Path) -> None:
    release = bring(tmp_path)
    assert arrival.publish(Layout(tmp_path), release, check=True)["changed"]
    assert not (tmp_path / "releases").exists()
