"""TensorRT's plans on disk: never taken for another model, version or GPU."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from orchestrator.engines.whisper_native import plans
from orchestrator.errors import DiskFullError, ModelLoadError

TARGET = plans.Target("ab" * 32, "10.13.2", "NVIDIA GB10", "sm_121", "float16", 16)
OTHERS = {
    "model": "cd" * 32,
    "tensorrt": "10.14.0",
    "gpu": "NVIDIA H200",
    "architecture": "sm_90",
    "precision": "bfloat16",
    "rows": 8,
}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = tmp_path / TARGET.name
    assert plans.read(folder, TARGET) is None
    plans.write(folder, TARGET, {"encoder": b"one", "step": b"two"})
    assert plans.read(folder, TARGET) == {"encoder": b"one", "step": b"two"}
    assert not [path for path in folder.iterdir() if path.name.endswith(".part")]


@pytest.mark.parametrize("field", asdict(TARGET))
def test_plans_for_anything_else_have_another_name_and_are_refused(tmp_path: Path, field: str) -> None:
    other = replace(TARGET, **{field: OTHERS[field]})
    assert other.name != TARGET.name
    plans.write(tmp_path / TARGET.name, TARGET, {"encoder": b"one"})
    with pytest.raises(ModelLoadError, match=f"{field} .*, not ") as caught:
        plans.read(tmp_path / TARGET.name, other)
    assert "cannot be moved" in str(caught.value.fix)
    with pytest.raises(ModelLoadError, match=TARGET.architecture):
        plans.refuse_others(tmp_path, other)
    plans.refuse_others(tmp_path, TARGET)


def test_no_plans_at_all_are_no_reason_to_refuse(tmp_path: Path) -> None:
    plans.refuse_others(tmp_path / "none", TARGET)


@pytest.mark.parametrize("damage", ["plan", "gone", "description", "schema", "empty"])
def test_damage_is_told_and_nothing_is_taken(tmp_path: Path, damage: str) -> None:
    plans.write(tmp_path, TARGET, {"encoder": b"one"})
    description = tmp_path / plans.DESCRIPTION
    data = json.loads(description.read_text())
    match damage:
        case "plan":
            (tmp_path / "encoder.plan").write_bytes(b"One")
        case "gone":
            (tmp_path / "encoder.plan").unlink()
        case "description":
            description.write_text("{")
        case "schema":
            description.write_text(json.dumps(data | {"schema": 9}))
        case "empty":
            description.write_text(json.dumps(data | {"plans": {}}))
    with pytest.raises(ModelLoadError, match="is damaged"):
        plans.read(tmp_path, TARGET)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskFullError, match="cannot be kept"):
        plans.write(tmp_path / "file" / "below", TARGET, {"encoder": b"one"})


def test_a_digest_follows_names_and_bytes_and_not_the_order(tmp_path: Path) -> None:
    one, two = tmp_path / "a", tmp_path / "b"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    before = plans.digest_of([one, two])
    assert plans.digest_of([two, one]) == before
    two.write_bytes(b"3")
    assert plans.digest_of([one, two]) != before
    with pytest.raises(ModelLoadError, match="cannot be read"):
        plans.digest_of([tmp_path / "none"])
