from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.app import main
from orchestrator.repository import builder as builders


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nemo: Callable[..., Path]) -> None:
    monkeypatch.setenv("SPARK_SPEECH__PATHS__HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SPARK_SPEECH__BUILD__MODELS", json.dumps({"moonshine": "", "diarizer": ""}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builders, "installed_version", lambda name: "1.0")
    nemo(tmp_path / "small.nemo")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    got, out, err = run(capsys, *arguments, "--json")
    assert got == code, err
    return json.loads(out)


BUILD = ("build", "--model", "parakeet=./small.nemo", "--device", "cpu", "--no-load-check")


def test_plan_shows_and_does_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    chosen = ["--max-window", "parakeet=60", "--max-batch", "parakeet=5", "--instances", "parakeet=2"]
    data = run_json(capsys, *BUILD, "--target", "aarch64", *chosen, "--plan")
    assert data["target"] == "aarch64"
    assert [model["name"] for model in data["models"]] == ["parakeet"]
    assert data["models"][0]["parameters"]["max_window_s"] == "60"
    assert (data["models"][0]["max_batch_size"], data["models"][0]["instances"]) == (5, 2)
    assert not (tmp_path / "home").exists()
    code, out, _ = run(capsys, *BUILD, "--plan")
    assert code == 0
    assert "parakeet" in out


def test_build_verify_and_list(capsys: pytest.CaptureFixture[str]) -> None:
    built = run_json(capsys, *BUILD)
    assert built["created"]
    assert run_json(capsys, "verify")["id"] == built["id"]
    assert run_json(capsys, "verify", built["id"][:12])["verified"] is True
    listed = run_json(capsys, "releases")
    assert listed["current"] == built["id"]
    assert [release["id"] for release in listed["releases"]] == [built["id"]]
    for verb in (BUILD, ("verify",), ("releases",)):
        code, out, _ = run(capsys, *verb)
        assert code == 0
        assert built["id"][:16] in out


def test_verify_fails_on_a_damaged_release(capsys: pytest.CaptureFixture[str]) -> None:
    built = run_json(capsys, *BUILD)
    weights = Path(built["folder"]) / "model_repository/parakeet/1/model.nemo"
    weights.unlink()
    failure = run_json(capsys, "verify", code=1)
    assert failure["error"] == "ReleaseCorruptError"
    assert "parakeet/1/model.nemo" in failure["message"]
    (Path(built["folder"]) / "manifest.json").write_text("{")
    assert run_json(capsys, "releases")["damaged"] == [built["id"]]


def test_without_releases_the_verbs_say_how_to_make_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_json(capsys, "releases") == {"current": None, "releases": [], "damaged": []}
    assert "spark-speech build" in run_json(capsys, "verify", code=1)["fix"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "parakeet"],
        ["--model", "parakete=./small.nemo"],
        ["--device", "tpu"],
        ["--target", "riscv"],
        ["--max-window", "parakeet=long"],
        ["--max-batch", "parakeet=0.5"],
        ["--instances", "parakeet"],
        ["--instances", "parakeet=0"],
    ],
)
def test_wrong_options_are_usage_errors(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    failure = run_json(capsys, *BUILD, *arguments, code=2)
    assert failure["error"] == "ConfigurationError"
    assert failure["fix"]


def test_a_hub_that_must_not_be_asked_is_a_clear_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_SPEECH__BUILD__OFFLINE", "true")
    failure = run_json(capsys, "build", "--model", "parakeet=org/model", "--no-load-check", code=1)
    assert failure["error"] == "HubUnreachableError"
    assert "embedded" in failure["fix"]


def test_a_recogniser_that_the_release_lacks_is_told_before_a_server_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_json(capsys, *BUILD)
    failure = run_json(capsys, "bench", "overhead", "--engine", "moonshine", code=2)
    assert "'moonshine'" in failure["message"]
    assert failure["fix"] == "use --engine parakeet"
