from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import (
    DiskFullError,
    ReleaseCorruptError,
    ReleaseInvalidError,
    ReleaseNotFoundError,
    RepositoryError,
)
from orchestrator.repository import release as releases
from orchestrator.repository.blobs import Blob, BlobStore
from orchestrator.repository.manifest import FileEntry, Manifest, ModelEntry
from orchestrator.repository.release import ReleaseStore, verify


def content(home: Path, **texts: str) -> tuple[Manifest, dict[str, Blob]]:
    """A manifest of one model whose files hold ``texts``, and the stored files."""
    blobs = BlobStore(home / "blobs")
    files = {f"m/1/{name}": blobs.add_bytes(text.encode()) for name, text in texts.items()}
    model = ModelEntry(
        name="m", task="recognize", engine="e", source="local", revision=None, packages={}, settings={}
    )
    manifest = Manifest.create(
        target="x86_64",
        device="cpu",
        packages={},
        models=(model,),
        files=tuple(FileEntry(path=path, sha256=blob.sha256, size=blob.size) for path, blob in files.items()),
    )
    return manifest, files


def everything_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path)


def test_a_release_is_published_linked_and_whole(tmp_path: Path, store: ReleaseStore) -> None:
    manifest, files = content(tmp_path, a="one", b="two")
    with store.locked():
        release = store.publish(manifest, files, lambda folder: {"schema": "passed"})
        store.activate(release.id)
    assert release.folder == tmp_path / "releases" / manifest.id
    assert (release.model_repository / "m/1/a").read_text() == "one"
    assert (release.model_repository / "m/1/a").stat().st_ino == files["m/1/a"].path.stat().st_ino
    assert store.current().id == manifest.id
    assert store.current().checks == {"schema": "passed"}
    assert (tmp_path / "releases/current").readlink() == Path(manifest.id), "a relative link moves with home"
    verify(release)


def test_files_are_copied_where_they_cannot_be_linked(
    tmp_path: Path, store: ReleaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    manifest, files = content(tmp_path, a="one")
    release = store.publish(manifest, files)
    verify(release)
    assert (release.model_repository / "m/1/a").stat().st_nlink == 1


def test_a_failed_check_publishes_nothing(tmp_path: Path, store: ReleaseStore) -> None:
    manifest, files = content(tmp_path, a="one")

    def bad(folder: Path) -> dict[str, str]:
        assert (folder / "model_repository/m/1/a").is_file(), "the check sees the whole release"
        raise ReleaseInvalidError("no")

    with pytest.raises(ReleaseInvalidError):
        store.publish(manifest, files, bad)
    assert everything_in(store.folder) == set()
    assert store.ids() == ()


def test_files_that_are_not_the_manifests_are_refused(tmp_path: Path, store: ReleaseStore) -> None:
    manifest, files = content(tmp_path, a="one")
    with pytest.raises(RepositoryError):
        store.publish(manifest, {**files, "m/1/more": files["m/1/a"]})


def test_bytecode_that_a_load_left_is_no_part_of_a_release(tmp_path: Path, store: ReleaseStore) -> None:
    manifest, files = content(tmp_path, a="one")

    def load(folder: Path) -> dict[str, str]:
        cache = folder / "model_repository/m/1/__pycache__"
        cache.mkdir()
        (cache / "model.pyc").write_bytes(b"x")
        return {}

    release = store.publish(manifest, files, load)
    assert everything_in(release.model_repository) == {"m", "m/1", "m/1/a"}
    (release.model_repository / "m/1/__pycache__").mkdir()
    (release.model_repository / "m/1/__pycache__/model.pyc").write_bytes(b"x")
    verify(release)


def test_verify_names_every_file_that_is_wrong(tmp_path: Path, store: ReleaseStore) -> None:
    manifest, files = content(tmp_path, same="1", altered="2", grown="3", gone="4")
    release = store.publish(manifest, files)
    folder = release.model_repository / "m/1"
    for name, data in (("altered", "x"), ("grown", "33")):
        (folder / name).unlink()
        (folder / name).write_text(data)
    (folder / "gone").unlink()
    (folder / "extra").write_text("!")
    with pytest.raises(ReleaseCorruptError) as caught:
        verify(release)
    for part in ("altered (altered)", "grown (altered)", "gone (missing", "extra (not in the manifest)"):
        assert f"m/1/{part}" in caught.value.message
    assert "same" not in caught.value.message


def test_a_damaged_release_is_replaced_by_the_next_build(tmp_path: Path, store: ReleaseStore) -> None:
    manifest, files = content(tmp_path, a="one")
    release = store.publish(manifest, files)
    (release.model_repository / "m/1/a").unlink()
    with store.locked():
        verify(store.publish(manifest, files))
    assert {path for path in everything_in(store.folder) if path.startswith(".")} == {".lock"}


def test_releases_are_found_by_the_start_of_their_id(tmp_path: Path, store: ReleaseStore) -> None:
    ids = [store.publish(*content(tmp_path, a=str(number))).id for number in range(20)]
    assert store.find(ids[0]).id == ids[0]
    assert store.find(ids[0][:16]).id == ids[0]
    shared = next(one[0] for one in ids if sum(other[0] == one[0] for other in ids) > 1)
    with pytest.raises(ReleaseNotFoundError, match="fits"):
        store.find(shared)
    for wrong in ("zzzz", "", "../"):
        with pytest.raises(ReleaseNotFoundError, match="there is no release"):
            store.find(wrong)
    assert {release.id for release in store.all()} == set(ids)


def test_current_is_told_when_there_is_none(tmp_path: Path, store: ReleaseStore) -> None:
    with pytest.raises(ReleaseNotFoundError, match="no release is current"):
        store.current()
    manifest, files = content(tmp_path, a="one")
    release = store.publish(manifest, files)
    store.activate(release.id)
    release.folder.rename(tmp_path / "elsewhere")
    with pytest.raises(ReleaseNotFoundError, match="is gone"):
        store.find("current")
    with pytest.raises(ReleaseNotFoundError):
        store.activate(release.id)


def test_current_is_never_away_while_it_is_swapped(tmp_path: Path, store: ReleaseStore) -> None:
    first, second = (store.publish(*content(tmp_path, a=text)) for text in ("one", "two"))
    store.activate(first.id)
    before = (store.folder / "current").lstat().st_ino
    store.activate(second.id)
    assert store.current().id == second.id
    assert (store.folder / "current").lstat().st_ino != before, "a new link was renamed over the old"
    assert not [path for path in store.folder.iterdir() if path.name.startswith(".current")]


def test_a_release_under_anothers_name_is_corrupt(tmp_path: Path, store: ReleaseStore) -> None:
    release = store.publish(*content(tmp_path, a="one"))
    release.folder.rename(store.folder / ("0" * 64))
    with pytest.raises(ReleaseCorruptError, match="not its own name"):
        store.find("0" * 64)
    assert store.all() == ()


def test_a_full_disk_leaves_nothing_and_says_so(
    tmp_path: Path, store: ReleaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, files = content(tmp_path, a="one", b="two")
    placed: list[Path] = []

    def full(source: Path, target: Path) -> None:
        if placed:
            raise OSError(28, "No space left on device")
        placed.append(target)
        target.parent.mkdir(parents=True)
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(releases, "_place", full)
    with pytest.raises(DiskFullError, match="no space") as caught:
        store.publish(manifest, files)
    assert caught.value.fix
    assert everything_in(store.folder) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_really_full_disk_leaves_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"this machine does not let us mount: {mounted.stderr.strip()}")
    try:
        manifest, files = content(tmp_path, a="x" * 100_000, b="y" * 500_000)
        store = ReleaseStore(small)
        with pytest.raises(DiskFullError):
            store.publish(manifest, files)
        assert everything_in(store.folder) == set()
        with pytest.raises(DiskFullError):
            BlobStore(small / "blobs").add_bytes(b"z" * 500_000)
        assert not [path for path in (small / "blobs").rglob("*") if path.is_file()]
    finally:
        subprocess.run(["umount", str(small)], check=True)


_HANGS_WHILE_STAGED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_release import content
from orchestrator.repository.release import ReleaseStore
home = Path({home!r})
def hang(folder):
    print("staged", flush=True)
    time.sleep(60)
store = ReleaseStore(home)
with store.locked():
    store.publish(*content(home, a="one"), hang)
"""


@pytest.fixture
def hanging_build(tmp_path: Path) -> subprocess.Popen[str]:
    """A process that holds the lock and has a whole release staged."""
    code = _HANGS_WHILE_STAGED.format(tests=str(Path(__file__).parent), home=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "staged\n"
    return process


def test_a_killed_build_leaves_no_release_and_the_next_one_sweeps(
    tmp_path: Path, store: ReleaseStore, hanging_build: subprocess.Popen[str]
) -> None:
    os.kill(hanging_build.pid, signal.SIGKILL)
    hanging_build.communicate()
    assert (store.folder / ".staging").exists(), "the test kills too late or too early"
    assert store.ids() == ()
    assert store.all() == ()
    with store.locked(wait_s=0):
        assert not (store.folder / ".staging").exists()
        verify(store.publish(*content(tmp_path, a="one")))


def test_two_builds_at_once_do_not_clash(store: ReleaseStore, hanging_build: subprocess.Popen[str]) -> None:
    told: list[str] = []
    try:
        with (
            pytest.raises(RepositoryError, match="another build"),
            store.locked(wait_s=0.3, on_wait=lambda: told.append("waiting")),
        ):
            pytest.fail("the lock was not held")
        assert (store.folder / ".staging").exists(), "the waiting build swept the other's work"
        assert told == ["waiting"]
    finally:
        hanging_build.kill()
        hanging_build.communicate()
    with store.locked(wait_s=0):  # a dead process holds no lock
        pass
