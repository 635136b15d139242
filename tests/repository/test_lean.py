from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import ArtifactError, ModelLoadError, UnsupportedModelError
from orchestrator.progress import SilentProgress
from orchestrator.repository import lean
from orchestrator.repository.artifacts import ResolvedModel, Resolver
from orchestrator.repository.blobs import Blob, BlobStore
from orchestrator.repository.hub import Hub
from orchestrator.repository.plan import ModelPlan, Precision, make_plan


class Converter:
    """Writes files that name the checkpoint and the precision, and counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.fails: Exception | None = None

    def __call__(self, checkpoint: Blob, precision: str, folder: Path) -> None:
        self.calls += 1
        for name in lean.FILES:
            (folder / name).write_text(f"{name} {checkpoint.sha256} {precision}")
        if self.fails is not None:
            raise self.fails


@pytest.fixture
def converter(nemo: object, monkeypatch: pytest.MonkeyPatch) -> Converter:
    made = Converter()
    monkeypatch.setattr(lean, "convert", made)
    monkeypatch.setattr(lean, "load", lambda folder: None)
    return made


@pytest.fixture
def resolve(tmp_path: Path, converter: Converter) -> Callable[[ModelPlan], ResolvedModel]:
    cache = tmp_path / "home" / "cache"
    blobs = BlobStore(cache / "blobs")
    return Resolver(cache, blobs, Hub(cache, blobs, offline=True), SilentProgress(), offline=True).resolve


@pytest.fixture
def checkpoint(tmp_path: Path, nemo: Callable[..., Path]) -> Path:
    return nemo(tmp_path / "weights" / "small.nemo")


def planned(
    source: Path, name: str = "parakeet", device: str = "cpu", precision: Precision = "auto"
) -> ModelPlan:
    return make_plan({name: str(source)}, device=device, precision=precision).models[0]  # type: ignore[arg-type]


Resolve = Callable[[ModelPlan], ResolvedModel]


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        ("cpu", "auto", "float32"),
        ("cuda", "auto", "bfloat16"),
        ("cpu", "bfloat16", "bfloat16"),
        ("cuda", "float32", "float32"),
    ],
)
def test_the_release_gets_the_lean_form_in_the_devices_precision(
    resolve: Resolve, checkpoint: Path, device: str, precision: Precision, expected: str
) -> None:
    resolved = resolve(planned(checkpoint, device=device, precision=precision))
    assert sorted(resolved.files) == sorted(lean.FILES)
    assert resolved.files["model.json"].path.read_text().endswith(f" {expected}")
    assert resolved.kept is None
    assert "nemo_toolkit" not in resolved.packages


def test_a_checkpoint_is_converted_once_for_all_models_and_builds(
    resolve: Resolve, checkpoint: Path, converter: Converter
) -> None:
    first = resolve(planned(checkpoint))
    assert resolve(planned(checkpoint)).files == first.files
    assert resolve(planned(checkpoint, name="parakeet_streaming")).files == first.files
    assert converter.calls == 1
    resolve(planned(checkpoint, device="cuda"))
    assert converter.calls == 2


@pytest.mark.parametrize("damaged", lean.FILES)
def test_a_remembered_file_that_is_damaged_is_made_again(
    resolve: Resolve, checkpoint: Path, converter: Converter, damaged: str
) -> None:
    first = resolve(planned(checkpoint))
    first.files[damaged].path.chmod(0o644)
    first.files[damaged].path.write_text("x")
    again = resolve(planned(checkpoint))
    assert converter.calls == 2
    assert again.files == first.files
    assert again.files[damaged].path.read_text().startswith(damaged)


def test_what_only_nemo_computes_stays_as_it_is(
    resolve: Resolve, checkpoint: Path, converter: Converter, tmp_path: Path
) -> None:
    converter.fails = UnsupportedModelError("encoder.subsampling is 'striding'")
    resolved = resolve(planned(checkpoint))
    assert list(resolved.files) == ["model.nemo"]
    assert resolved.kept == "encoder.subsampling is 'striding'"
    assert "nemo_toolkit" in resolved.packages
    with pytest.raises(ArtifactError, match="striding") as caught:
        resolve(planned(checkpoint, name="parakeet_streaming"))
    assert caught.value.model == "parakeet_streaming"
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_corrupt_weights_end_the_build_and_leave_nothing(
    resolve: Resolve, checkpoint: Path, converter: Converter, tmp_path: Path
) -> None:
    converter.fails = ModelLoadError("the weights cannot be read", fix="fetch the file again")
    with pytest.raises(ArtifactError, match=r"small\.nemo cannot be served: the weights") as caught:
        resolve(planned(checkpoint))
    assert caught.value.fix == "fetch the file again"
    assert not list((tmp_path / "home").rglob("model.json"))


def test_a_folder_in_the_lean_form_is_a_source(
    resolve: Resolve, tmp_path: Path, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*lean.FILES, "README.md"):
        (tmp_path / name).write_text(name)
    resolved = resolve(planned(tmp_path))
    assert sorted(resolved.files) == sorted(lean.FILES)
    assert converter.calls == 0

    def damaged(folder: Path) -> None:
        raise ModelLoadError(f"{folder}/model.safetensors cannot be used: too short")

    monkeypatch.setattr(lean, "load", damaged)
    with pytest.raises(ArtifactError, match=r"cannot be served: model\.safetensors cannot be used"):
        resolve(planned(tmp_path))


def test_a_checkpoint_goes_before_other_weights_beside_it(
    resolve: Resolve, checkpoint: Path, converter: Converter
) -> None:
    for name in lean.FILES:
        (checkpoint.parent / name).write_text("of another library")
    resolve(planned(checkpoint.parent))
    assert converter.calls == 1
