from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from orchestrator import resources
from orchestrator.errors import (
    ArtifactNotFoundError,
    MissingDependencyError,
    ReleaseInvalidError,
    ServerStartError,
)
from orchestrator.repository import builder as builders
from orchestrator.repository.builder import Builder, BuildResult, HubAccess
from orchestrator.repository.plan import ModelOptions, make_plan
from orchestrator.repository.release import ReleaseStore, verify
from orchestrator.repository.validate import LoadCheck, machine

Build = Callable[..., BuildResult]


@pytest.fixture(autouse=True)
def _versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "installed_version", lambda name: "1.0")


@pytest.fixture
def checkpoint(tmp_path: Path, nemo: Callable[..., Path]) -> Path:
    return nemo(tmp_path / "small.nemo")


@pytest.fixture
def build(tmp_path: Path, checkpoint: Path) -> Build:
    def run(
        home: Path = tmp_path / "home",
        load: LoadCheck | None = None,
        source: Path = checkpoint,
        window_s: float | None = None,
    ) -> BuildResult:
        options = {"parakeet": ModelOptions(max_window_s=window_s)}
        plan = make_plan({"parakeet": str(source)}, target=machine(), options=options)  # type: ignore[arg-type]
        return Builder(
            home=home, models=resources.model_repository(), hub=HubAccess(offline=True), load=load
        ).build(plan)

    return run


def test_a_build_gives_a_release_that_verifies_and_is_current(build: Build, tmp_path: Path) -> None:
    result = build()
    verify(result.release)
    assert result.created
    assert ReleaseStore(tmp_path / "home").current().id == result.release.id
    folder = result.release.model_repository / "parakeet"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "1/model.nemo",
        "1/model.py",
        "config.pbtxt",
    ]
    committed = resources.model_repository() / "parakeet"
    for name in ("1/model.py", "config.pbtxt"):
        assert (folder / name).read_bytes() == (committed / name).read_bytes()


def test_a_checkpoint_that_only_nemo_computes_is_told_and_depends_on_nemos_version(build: Build) -> None:
    result = build()
    assert [note for note in result.notes if "NeMo" in note and "only a name" in note]
    assert result.to_dict()["notes"] == list(result.notes)
    assert result.release.manifest.packages["nemo_toolkit"] == "1.0"
    assert result.release.manifest.models[0].packages["nemo_toolkit"] == "1.0"


def test_the_same_inputs_give_the_same_id_in_any_place(
    build: Build, tmp_path: Path, checkpoint: Path
) -> None:
    moved = tmp_path / "elsewhere" / "renamed.nemo"
    moved.parent.mkdir()
    shutil.copyfile(checkpoint, moved)
    first, second = build(), build(home=tmp_path / "other", source=moved)
    assert first.release.id == second.release.id
    texts = [result.release.folder.joinpath("manifest.json").read_bytes() for result in (first, second)]
    assert texts[0] == texts[1]
    assert str(tmp_path).encode() not in texts[0]


def test_other_settings_weights_or_versions_give_another_id(
    build: Build, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = {build().release.id, build(window_s=60.0).release.id}
    monkeypatch.setattr(builders, "installed_version", lambda name: "1.1")
    ids.add(build().release.id)
    with tarfile.open(checkpoint, "a") as archive:
        archive.add(__file__, "./more")
    ids.add(build().release.id)
    assert len(ids) == 4


def test_a_second_build_reuses_the_release_and_a_damaged_one_is_replaced(build: Build) -> None:
    first = build()
    assert not build().created
    weights = first.release.model_repository / "parakeet/1/model.nemo"
    weights.chmod(0o644)
    weights.write_bytes(b"x")  # a hard link: the cache is damaged with it
    again = build()
    assert again.created
    assert again.release.id == first.release.id
    verify(again.release)


def test_a_release_that_does_not_load_is_not_published(build: Build, tmp_path: Path) -> None:
    def broken(folder: Path, models: Sequence[str]) -> None:
        raise ServerStartError("the model failed")

    with pytest.raises(ReleaseInvalidError, match="the model failed"):
        build(load=broken)
    store = ReleaseStore(tmp_path / "home")
    assert store.ids() == ()
    assert store.current_id() is None


def test_a_wrong_path_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    models = {"diarizer": "org/diarizer", "parakeet": str(tmp_path / "away.nemo")}
    plan = make_plan(models, target=machine())  # type: ignore[arg-type]
    builder = Builder(
        home=tmp_path / "home", models=resources.model_repository(), hub=HubAccess(offline=True)
    )
    with pytest.raises(ArtifactNotFoundError, match=r"away\.nemo"):
        builder.build(plan)


def test_an_unloaded_release_is_loaded_once_a_server_is_there(build: Build) -> None:
    loads: list[Sequence[str]] = []
    build()
    for _ in range(2):
        result = build(load=lambda folder, models: loads.append(models))
        assert not result.created
    assert loads == [["parakeet"]]
    assert result.release.checks["load in tritonserver"] == "passed"


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(MissingDependencyError, match="no-such-distribution"):
        builders.installed_version("no-such-distribution")


def test_local_parts_of_versions_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.11.0+cu130")
    assert builders.installed_version("torch") == "2.11.0"


_BUILD_THAT_STOPS = """
import sys, time
from pathlib import Path
from orchestrator import resources
from orchestrator.errors import UnsupportedModelError
from orchestrator.repository import builder as builders, lean
from orchestrator.repository.builder import Builder, HubAccess
from orchestrator.repository.plan import make_plan
from orchestrator.repository.validate import machine
builders.installed_version = lambda name: "1.0"
def refuse(*args):
    raise UnsupportedModelError("the encoder is only a name")
lean.convert = refuse
def hang(folder, models):
    print("checking", flush=True)
    time.sleep(60)
plan = make_plan({{"parakeet": {checkpoint!r}}}, target=machine())
Builder(
    home=Path({home!r}), models=resources.model_repository(), hub=HubAccess(offline=True), load=hang
).build(plan)
"""


def test_a_build_killed_in_the_middle_leaves_no_half_release(
    build: Build, tmp_path: Path, checkpoint: Path
) -> None:
    code = _BUILD_THAT_STOPS.format(checkpoint=str(checkpoint), home=str(tmp_path / "home"))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "checking\n"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    store = ReleaseStore(tmp_path / "home")
    assert store.ids() == ()
    result = build()
    assert result.created
    verify(result.release)
    assert not (store.folder / ".staging").exists()
