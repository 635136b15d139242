from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.errors import ReleaseInvalidError, ServerStartError
from orchestrator.repository.config import render
from orchestrator.repository.manifest import Manifest, ModelEntry
from orchestrator.repository.plan import make_plan
from orchestrator.repository.validate import gpu_count, machine, validate


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    return stage(tmp_path, "cpu")


def stage(folder: Path, device: str, name: str = "parakeet") -> Path:
    for model in make_plan({name: "org/m"}, device=device).models:  # type: ignore[arg-type]
        (folder / "model_repository" / model.name / "1").mkdir(parents=True)
        (folder / "model_repository" / model.name / "1/model.py").write_text("")
        (folder / "model_repository" / model.name / "config.pbtxt").write_text(render(model.config))
    return folder


def manifest(target: str | None = None, name: str = "parakeet") -> Manifest:
    model = ModelEntry(
        name=name,
        task="recognize",
        engine=name,
        source="x",
        revision=None,
        packages={},
        settings={},
    )
    return Manifest.create(
        target=target or machine(),  # type: ignore[arg-type]
        device="cpu",
        packages={},
        models=(model,),
        files=(),
    )


def test_a_good_release_passes_and_is_loaded(staged: Path) -> None:
    loaded: list[tuple[Path, Sequence[str]]] = []
    checks = validate(staged, manifest(), load=lambda folder, models: loaded.append((folder, models)))
    assert {check.outcome for check in checks} == {"passed"}
    assert loaded == [(staged / "model_repository", ["parakeet"])]


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('name: "parakeet"', 'name: "other"', "names the model 'other'"),
        ("TYPE_FP32", "TYPE_INT32", "AUDIO is INT32"),
        ('name: "WORD_END_MS"', 'name: "WORD_STOP_MS"', "WORD_END_MS is missing"),
        ('name: "WORD_END_MS"', 'name: "WORD_STOP_MS"', "WORD_STOP_MS is not in the contract"),
        ("optional: true", "optional: false", "OPTIONS"),
        ("max_batch_size: 8", "max_batch_size: 0", "max_batch_size"),
        ('"recognize"', '"translate"', "its task"),
        ('key: "engine"', 'key: "motor"', "parameters are missing: engine"),
        ("input {", "inptu {", "not a Triton model configuration"),
        ("instance_group {\n  count: 1\n  kind: KIND_CPU\n}\n", "", "no instance group"),
    ],
)
def test_each_fault_of_a_configuration_is_named(staged: Path, before: str, after: str, reason: str) -> None:
    path = staged / "model_repository/parakeet/config.pbtxt"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(ReleaseInvalidError, match=reason) as caught:
        validate(staged, manifest())
    assert "parakeet" in caught.value.message


def test_what_finds_out_the_language_says_how_sure_it_is(tmp_path: Path) -> None:
    folder = stage(tmp_path, "cpu", "whisper_ct2")
    validate(folder, manifest(name="whisper_ct2"))
    path = folder / "model_repository/whisper_ct2/config.pbtxt"
    text = path.read_text()
    path.write_text(text.replace('string_value: "true"', 'string_value: "false"'))
    with pytest.raises(ReleaseInvalidError, match="LANGUAGE_CONFIDENCE is not in the contract"):
        validate(folder, manifest(name="whisper_ct2"))
    path.write_text(text.replace("LANGUAGE_CONFIDENCE", "CONFIDENCE"))
    with pytest.raises(ReleaseInvalidError, match="LANGUAGE_CONFIDENCE is missing"):
        validate(folder, manifest(name="whisper_ct2"))


LIVE = "parakeet_streaming"


def test_a_good_release_of_live_streams_passes(tmp_path: Path) -> None:
    checks = validate(stage(tmp_path, "cpu", LIVE), manifest(name=LIVE))
    assert {check.outcome for check in checks} == {"passed", "skipped"}


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('key: "chunk_ms"', 'key: "chunk"', "parameters are missing: chunk_ms"),
        ('key: "idle_timeout_s"', 'key: "idle"', "parameters are missing: idle_timeout_s"),
        ("max_candidate_sequences: 72", "max_candidate_sequences: 8", "8 candidates"),
        ("idle_microseconds: 70000000", "idle_microseconds: 60000000", "before the model does"),
        ('string_value: "60"', 'string_value: "long"', "no number"),
        ('"stream"', '"recognize"', "they alone"),
        ('name: "UPDATE"', 'name: "NEWS"', "UPDATE is missing"),
    ],
)
def test_each_fault_of_live_streams_is_named(tmp_path: Path, before: str, after: str, reason: str) -> None:
    path = stage(tmp_path, "cpu", LIVE) / f"model_repository/{LIVE}/config.pbtxt"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(ReleaseInvalidError, match=reason):
        validate(tmp_path, manifest(name=LIVE))


@pytest.mark.parametrize("name", ["config.pbtxt", "1/model.py"])
def test_a_missing_file_is_named(staged: Path, name: str) -> None:
    (staged / "model_repository/parakeet" / name).unlink()
    with pytest.raises(ReleaseInvalidError, match=name):
        validate(staged, manifest())


def test_a_gpu_release_needs_a_gpu_here_unless_it_is_for_elsewhere(tmp_path: Path) -> None:
    folder = stage(tmp_path, "cuda")
    with pytest.raises(ReleaseInvalidError, match="want a GPU"):
        validate(folder, manifest(), gpus=lambda: 0)
    validate(folder, manifest(), gpus=lambda: 1)
    checks = validate(folder, manifest(), gpus=lambda: 0, skip_machine="for a Spark")
    assert [check.detail for check in checks if check.outcome == "skipped"] == ["for a Spark"] * 2


def test_a_release_for_another_processor_does_not_pass_here(staged: Path) -> None:
    other = "aarch64" if machine() == "x86_64" else "x86_64"
    with pytest.raises(ReleaseInvalidError, match=other):
        validate(staged, manifest(other))


def test_a_server_that_cannot_load_it_fails_it_with_the_servers_reason(staged: Path) -> None:
    def load(folder: Path, models: Sequence[str]) -> None:
        raise ServerStartError("tritonserver ended: no module named torch")

    with pytest.raises(ReleaseInvalidError, match="no module named torch"):
        validate(staged, manifest(), load=load)


def test_a_broken_release_is_not_even_tried_in_a_server(staged: Path) -> None:
    (staged / "model_repository/parakeet/1/model.py").unlink()
    with pytest.raises(ReleaseInvalidError):
        validate(staged, manifest(), load=lambda folder, models: pytest.fail("it was tried"))


def test_gpus_are_counted_by_their_device_nodes(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert gpu_count(tmp_path) == 2
