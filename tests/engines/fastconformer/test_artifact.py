"""The lean form: what is saved is what is loaded, and nothing else loads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.bench import synthetic
from orchestrator.engines.base import EngineSource
from orchestrator.engines.fastconformer import artifact
from orchestrator.engines.fastconformer.artifact import Description
from orchestrator.engines.fastconformer.config import HeadConfig
from orchestrator.engines.parakeet import load
from orchestrator.errors import ArtifactError, ConfigurationError, ModelLoadError

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    synthetic.write(folder, shape="tiny", precision="float32")
    return folder


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    for name in artifact.FILES:
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    return tmp_path


def hybrid(folder: Path) -> tuple[Description, dict[str, torch.Tensor]]:
    """The model in ``folder`` with a second head, and its weights."""
    network, description = artifact.load(folder, CPU)
    width, tokens = network.config.encoder.width, network.config.head.vocabulary
    weights = dict(network.state_dict())
    weights["ctc_head.out.weight"] = torch.full((tokens + 1, width), 0.25)
    weights["ctc_head.out.bias"] = torch.arange(tokens + 1.0)
    return replace(description, ctc=HeadConfig("ctc", tokens)), weights


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_saved_model_is_loaded_as_it_was(tiny: Path, tmp_path: Path, precision: artifact.Precision) -> None:
    network, description = artifact.load(tiny, CPU)
    artifact.save(tmp_path, replace(description, precision=precision), network.state_dict())
    again, described = artifact.load(tmp_path, CPU)
    assert described == replace(description, precision=precision)
    dtype = getattr(torch, precision)
    for name, value in again.state_dict().items():
        wanted = torch.float32 if name.startswith("features.") else dtype
        assert value.dtype == wanted, name
        assert torch.equal(value, network.state_dict()[name].to(wanted)), name
    assert torch.equal(again.head.durations, torch.arange(5))
    assert not any(part.training for part in again.modules())


def test_equal_models_are_equal_files_and_the_folder_holds_nothing_else(tiny: Path, tmp_path: Path) -> None:
    network, description = artifact.load(tiny, CPU)
    artifact.save(tmp_path, description, network.state_dict())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(artifact.FILES)
    for name in artifact.FILES:
        assert (tmp_path / name).read_bytes() == (tiny / name).read_bytes()
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o644


def test_both_heads_of_a_hybrid_are_kept_and_one_is_read(tiny: Path, tmp_path: Path) -> None:
    artifact.save(tmp_path, *hybrid(tiny))
    transducer, _ = artifact.load(tmp_path, CPU)
    ctc, _ = artifact.load(tmp_path, CPU, prefer_ctc=True)
    assert (transducer.config.head.kind, ctc.config.head.kind) == ("tdt", "ctc")
    assert ctc.head.out.bias[-1] == 128
    assert "ctc_head.out.bias" not in transducer.state_dict()


def test_a_ctc_head_is_asked_of_a_model_that_has_none(tiny: Path) -> None:
    network, _ = artifact.load(tiny, CPU, prefer_ctc=True)
    assert network.config.head.kind == "tdt"


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def edit(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    path = folder / artifact.DESCRIPTION_NAME
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def other_weights(folder: Path) -> None:
    """Sound weights of the same shape that belong to another description."""
    network, description = artifact.load(folder, CPU)
    other = folder / "other"
    other.mkdir()
    artifact.save(other, replace(description, languages=("de",)), network.state_dict())
    (other / artifact.WEIGHTS_NAME).replace(folder / artifact.WEIGHTS_NAME)


def another_shape(folder: Path) -> None:
    network, description = artifact.load(folder, CPU)
    encoder = replace(description.config.encoder, layers=3)
    config = replace(description.config, encoder=encoder)
    artifact.save(folder, replace(description, config=config), network.state_dict())


def another_type(folder: Path) -> None:
    """Weights in float32 that are described, and saved, as if in bfloat16."""
    network, description = artifact.load(folder, CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifact, "cast", lambda weights, precision: dict(weights))
        artifact.save(folder, replace(description, precision="bfloat16"), network.state_dict())


DAMAGE = {
    "no weights": ("model.safetensors", lambda f: (f / artifact.WEIGHTS_NAME).unlink()),
    "no description": ("model.json", lambda f: (f / artifact.DESCRIPTION_NAME).unlink()),
    "truncated weights": ("model.safetensors", lambda f: cut(f / artifact.WEIGHTS_NAME, 0.7)),
    "weights cut in the header": ("model.safetensors", lambda f: cut(f / artifact.WEIGHTS_NAME, 0.001)),
    "empty weights": ("model.safetensors", lambda f: cut(f / artifact.WEIGHTS_NAME, 0)),
    "a web page": ("model.safetensors", lambda f: (f / artifact.WEIGHTS_NAME).write_text("<html>" * 99)),
    "truncated description": ("model.json", lambda f: cut(f / artifact.DESCRIPTION_NAME, 0.7)),
    "an edited description": ("model.safetensors", lambda f: edit(f, lambda d: d.update(languages=["de"]))),
    "a newer version": ("model.json", lambda f: edit(f, lambda d: d.update(version=2))),
    "a missing key": ("model.json", lambda f: edit(f, lambda d: d.pop("tokens"))),
    "another model's weights": ("model.safetensors", other_weights),
    "another shape": ("model.safetensors", another_shape),
    "another type": ("model.safetensors", another_type),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_named_with_what_to_do(folder: Path, damage: str) -> None:
    named, change = DAMAGE[damage]
    change(folder)
    with pytest.raises(ModelLoadError) as caught:
        load(EngineSource(folder))
    assert str(folder / named) in str(caught.value)
    assert "spark-speech build" in str(caught.value.fix)


def test_what_cannot_be_written_is_told_and_leaves_what_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, description = artifact.load(folder, CPU)
    before = {name: (folder / name).read_bytes() for name in artifact.FILES}

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact, "save_file", full)
    with pytest.raises(ArtifactError, match="No space left"):
        artifact.save(folder, description, network.state_dict())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_nemo_cannot_run_the_lean_form(tiny: Path) -> None:
    with pytest.raises(ConfigurationError, match="native runtime"):
        load(EngineSource(tiny, options={"runtime": "nemo"}))


@pytest.mark.integration
def test_serving_imports_nothing_that_only_training_and_building_need(tiny: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from orchestrator.engines import EngineSource, load\n"
        f"found = load('parakeet', EngineSource(Path({str(tiny)!r})))\n"
        "found.recognize([np.random.default_rng(0).normal(0, 0.1, 32000).astype(np.float32)])\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {"nemo", "lightning", "pytorch_lightning", "omegaconf", "hydra", "sentencepiece", "transformers"}
    heavy |= {"torch._dynamo", "torch._inductor", "sympy", "yaml", "scipy", "librosa", "tritonclient"}
    assert "safetensors" in loaded
    assert loaded.isdisjoint(heavy)


def test_16_bit_audio_is_heard_as_its_samples(tiny: Path) -> None:
    recognizer = load(EngineSource(tiny, threads=1))
    audio = np.round(synthetic.speech_like(1, 8.0, seed=4)[0] * 32767).astype(np.int16)
    floats = audio.astype(np.float32) / 32768
    found = recognizer.recognize([audio])
    assert found[0].words
    assert found == recognizer.recognize([floats])
    mixed = recognizer.recognize([audio, floats])
    assert mixed[0] == mixed[1]
