"""What a build makes of real checkpoints: the lean form, the checkpoint itself, or a refusal."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from orchestrator import resources
from orchestrator.errors import ArtifactError
from orchestrator.repository.builder import Builder, BuildResult, HubAccess
from orchestrator.repository.plan import make_plan
from orchestrator.repository.release import ReleaseStore

pytestmark = pytest.mark.integration
TRAINED = Path(__file__).parents[3] / "orchestrator" / "training" / "checkpoint" / "parakeet-tiny.nemo"


def rewritten(target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """The trained checkpoint with ``change`` made to each of its files."""
    with tarfile.open(TRAINED) as old, tarfile.open(target, "w") as new:
        for member in old.getmembers():
            file = old.extractfile(member)
            if file is not None:
                content = change(member.name, file.read())
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))
    return target


def other_encoder(name: str, content: bytes) -> bytes:
    if not name.endswith("model_config.yaml"):
        return content
    config = yaml.safe_load(content)
    config["encoder"]["conv_norm_type"] = "layer_norm"
    return yaml.safe_dump(config).encode()


def half_weights(name: str, content: bytes) -> bytes:
    return content[: len(content) // 2] if name.endswith("model_weights.ckpt") else content


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., BuildResult]:
    def run(source: Path | str, name: str = "parakeet", device: str = "cpu") -> BuildResult:
        plan = make_plan({name: str(source)}, device=device)  # type: ignore[arg-type]
        return Builder(
            home=tmp_path / "home",
            models=resources.model_repository(),
            hub=HubAccess(offline=True),
            skip_machine="this test serves nothing",
        ).build(plan)

    return run


def files_of(result: BuildResult, name: str = "parakeet") -> list[str]:
    return sorted(path.name for path in (result.release.model_repository / name / "1").iterdir())


def test_a_release_for_a_gpu_holds_bfloat16_and_names_its_source(build: Callable[..., BuildResult]) -> None:
    from orchestrator.repository.integrity import sha256_of

    small, large = build(TRAINED, device="cuda"), build(TRAINED, device="cpu")
    described = {
        result.release.manifest.device: json.loads(
            (result.release.model_repository / "parakeet" / "1" / "model.json").read_text()
        )
        for result in (small, large)
    }
    assert {device: text["precision"] for device, text in described.items()} == {
        "cuda": "bfloat16",
        "cpu": "float32",
    }
    assert {text["source_sha256"] for text in described.values()} == {sha256_of(TRAINED)}
    sizes = [result.release.manifest.total_bytes for result in (small, large)]
    assert sizes[0] < 0.55 * sizes[1]


def test_a_release_can_be_made_of_a_releases_weights(build: Callable[..., BuildResult]) -> None:
    first = build(TRAINED)
    again = build(first.release.model_repository / "parakeet" / "1")
    assert files_of(again) == files_of(first)
    assert again.release.id == first.release.id, "a release is named by what is in it"


def test_what_only_nemo_computes_is_kept_and_told(build: Callable[..., BuildResult], tmp_path: Path) -> None:
    source = rewritten(tmp_path / "other.nemo", other_encoder)
    result = build(source)
    assert files_of(result) == ["model.nemo", "model.py"]
    (note,) = result.notes
    assert "NeMo" in note
    assert "conv_norm_type" in note
    assert "nemo_toolkit" in result.release.manifest.packages
    with pytest.raises(ArtifactError, match="conv_norm_type"):
        build(source, name="parakeet_streaming")


def test_corrupt_weights_are_refused_before_there_is_a_release(
    build: Callable[..., BuildResult], tmp_path: Path
) -> None:
    source = rewritten(tmp_path / "half.nemo", half_weights)
    with pytest.raises(ArtifactError, match=r"half\.nemo cannot be served: the weights") as caught:
        build(source)
    assert caught.value.fix
    assert ReleaseStore(tmp_path / "home").ids() == ()
