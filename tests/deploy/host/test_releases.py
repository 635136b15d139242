from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.deploy.host import images, releases
from orchestrator.deploy.host.layout import Layout
from orchestrator.deploy.host.releases import plan_pruning
from orchestrator.deploy.host.state import Content, Entry, HostState
from orchestrator.errors import HostError, ReleaseCorruptError, ReleaseNotFoundError
from orchestrator.repository.manifest import FileEntry, Manifest, ModelEntry

FILES = {"m/config.pbtxt": b'name: "m"', "m/1/model.py": b"pass\n"}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def write_release(layout: Layout, revision: str = "1") -> str:
    """A release as the build writes it; its id."""
    manifest = Manifest.create(
        target="x86_64",
        device="cpu",
        packages={"torch": "2.11.0"},
        models=(
            ModelEntry(
                name="m",
                task="asr",
                engine="moonshine",
                source="embedded",
                revision=revision,
                packages={},
                settings={"max_batch_size": 4},
            ),
        ),
        files=tuple(
            FileEntry(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
            for path, data in FILES.items()
        ),
    )
    folder = layout.releases / manifest.id
    for path, data in FILES.items():
        file = folder / "model_repository" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return manifest.id


def test_a_release_as_the_build_writes_it_is_verified(layout: Layout) -> None:
    release = write_release(layout, "rév")
    assert releases.verify(layout, release) == {
        "changed": False,
        "release": release,
        "files": 2,
        "bytes": sum(len(data) for data in FILES.values()),
    }


@pytest.mark.parametrize(
    ("path", "data", "said"),
    [
        ("m/1/model.py", b"fail\n", r"m/1/model.py \(altered\)"),
        ("m/1/model.py", None, r"m/1/model.py \(missing"),
        ("m/1/more.py", b"", r"m/1/more.py \(not in the manifest\)"),
    ],
)
def test_a_file_that_is_not_as_the_manifest_says_is_named(
    layout: Layout, path: str, data: bytes | None, said: str
) -> None:
    release = write_release(layout)
    file = layout.releases / release / "model_repository" / path
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data)
    with pytest.raises(ReleaseCorruptError, match=said):
        releases.verify(layout, release)


def test_a_manifest_that_was_altered_is_refused(layout: Layout) -> None:
    release = write_release(layout)
    path = layout.releases / release / "manifest.json"
    data = json.loads(path.read_text())
    for changed in (
        {**data, "device": "cuda"},
        {**data, "id": "0" * 64},
        {**data, "files": [{**data["files"][0], "path": "../../x"}]},
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(ReleaseCorruptError, match=release[:16]):
            releases.verify(layout, release)
    path.write_text("{")
    with pytest.raises(ReleaseCorruptError, match="cannot be read"):
        releases.verify(layout, release)


@pytest.mark.parametrize("name", ["0" * 64, "../..", "current", ""])
def test_a_release_that_is_not_here_is_not_found(layout: Layout, name: str) -> None:
    write_release(layout)
    with pytest.raises(ReleaseNotFoundError):
        releases.verify(layout, name)


def test_current_points_at_a_release_that_is_there(layout: Layout) -> None:
    first, second = write_release(layout, "1"), write_release(layout, "2")
    assert releases.current(layout) is None
    assert releases.point(layout, first) is True
    assert releases.point(layout, first) is False
    assert releases.point(layout, second) is True
    assert (layout.releases / "current").resolve() == layout.releases / second
    with pytest.raises(ReleaseNotFoundError):
        releases.point(layout, "f" * 64)
    assert releases.current(layout) == second
    assert set(releases.ids(layout)) == {first, second}


def content(letter: str) -> Content:
    return Content(letter * 64, f"env-{letter}", "cfg")


def committed(letters: str) -> tuple[Entry, ...]:
    return tuple(
        Entry(str(number), letter * 64, f"env-{letter}", "cfg", "now", "committed")
        for number, letter in enumerate(letters)
    )


@given(
    on_disk=st.permutations("abcdef"),
    history=st.text("abcdef", max_size=8),
    blue=st.sampled_from("abcdef"),
    green=st.sampled_from([None, *"abcdef"]),
    current=st.sampled_from([None, *"abcdef"]),
    keep=st.integers(0, 8),
)
def test_pruning_keeps_what_is_needed_and_as_many_as_asked_for(
    on_disk: list[str], history: str, blue: str, green: str | None, current: str | None, keep: int
) -> None:
    state = HostState(
        "blue",
        {"blue": content(blue), "green": content(green) if green else None},
        content(blue),
        committed(history),
    )
    plan = plan_pruning(
        state,
        [letter * 64 for letter in on_disk],
        [f"env-{letter}" for letter in "abcdef"],
        ["env-z"],
        current * 64 if current else None,
        keep,
        [f"env-{letter}" for letter in "abcdefz"],
    )
    gone = {release[0] for release in plan.releases}
    needed = {blue, *([green] if green else []), *([current] if current else [])}
    assert not gone & needed
    assert len("abcdef") - len(gone) == max(min(keep, 6), len(needed))
    assert f"env-{blue}" not in plan.environments
    assert plan.caches == ("env-z",)
    assert plan.images == (*plan.environments, "env-z"), "an image is kept where an environment would be"


def test_pruning_forgets_first_what_served_longest_ago() -> None:
    state = HostState("blue", {"blue": content("d"), "green": None}, content("d"), committed("abcbd"))
    plan = plan_pruning(state, [letter * 64 for letter in "abcd"], [], [], None, 3)
    assert [release[0] for release in plan.releases] == ["a"]


def test_prune_removes_folders_and_what_an_older_prune_left(layout: Layout) -> None:
    kept, old = write_release(layout, "1"), write_release(layout, "2")
    for number, release in enumerate((kept, old)):
        os.utime(layout.releases / release / "manifest.json", (100 - number, 100 - number))
    (layout.releases / ".doomed-x").mkdir()
    for name in ("used", "unused"):
        (layout.environments / name / "bin").mkdir(parents=True)
        (layout.gpu_cache / name).mkdir(parents=True)
    elsewhere = layout.home / "elsewhere"
    elsewhere.mkdir()
    (layout.environments / "link").symlink_to(elsewhere)
    good = Content(kept, "used", "cfg")
    state = HostState("blue", {"blue": good, "green": None}, good)
    checked = releases.prune(layout, state, 1, check=True)
    assert (layout.releases / old).is_dir()
    done = releases.prune(layout, state, 1, check=False)
    assert checked == done
    assert done == {
        "changed": True,
        "releases": [old],
        "environments": ["link", "unused"],
        "caches": ["unused"],
        "images": [],
        "left": [],
    }
    assert [path.name for path in layout.releases.iterdir()] == [kept]
    assert [path.name for path in layout.environments.iterdir()] == ["used"]
    assert elsewhere.is_dir()
    assert releases.prune(layout, state, 1, check=False)["changed"] is False


def test_an_image_that_is_in_use_stays_and_fails_nothing(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, other = "a" * 64, "b" * 64
    for folder in (layout.images / digest, layout.images / "host.env", layout.images / ".build-x"):
        folder.mkdir(parents=True)
    (layout.images / digest / "brought").write_text("registry/name@sha256:x\n")
    said: list[list[str]] = []

    def run(command: list[str], *, check: bool = True) -> str:
        said.append(command)
        if command[1:3] == ["image", "ls"]:
            return f"spark-speech:{digest} sha256:{digest}\nspark-speech:{other} sha256:{other}\n"
        if command[1:3] == ["image", "inspect"]:
            return f"sha256:{digest}\n"
        if len(said) < 4:
            raise HostError("a container uses it")
        return ""

    monkeypatch.setattr(images.shell, "run", run)
    done = releases.prune(layout, HostState(), 5, check=False)
    assert (done["changed"], done["images"], done["left"]) == (False, [digest], ["a container uses it"])
    assert (layout.images / digest).is_dir()
    done = releases.prune(layout, HostState(), 5, check=False)
    assert (done["changed"], done["left"]) == (True, [])
    assert said[-1] == ["docker", "image", "rm", f"spark-speech:{digest}", "registry/name@sha256:x"]
    assert {path.name for path in layout.images.iterdir()} == {"host.env", ".build-x"}
