"""Cold starts of a real engine, measured in fresh processes, drawn, kept and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bench import synthetic
from orchestrator.bench.coldstart import states
from orchestrator.bench.coldstart.probe import STAGES
from orchestrator.cli.app import main

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "parakeet"
    target.mkdir()
    synthetic.write(target, shape="tiny", precision="float32")
    return target


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "coldstart", *arguments, "--json"])
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert isinstance(ended.value.code, int)
    return ended.value.code, data


def test_every_state_is_measured_drawn_kept_and_compared(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("SPARK_SPEECH__PATHS__HOME", str(home))
    # The whole environment is not this test's to drop from memory.
    monkeypatch.setattr("orchestrator.bench.coldstart.benchmark.packages", lambda: (folder,))
    plot = tmp_path / "plot.png"
    options = ["--folder", f"parakeet={folder}", "--repeats", "1", "--seconds", "2"]
    code, data = bench(capsys, *options, "--plot", str(plot))
    assert code == 0
    assert [row["caches"] for row in data["rows"]] == [
        str(state) for state in states.CacheState if state is not states.CacheState.FORCED
    ]
    for row in data["rows"]:
        assert row["total_s"] == pytest.approx(sum(row[f"{stage}_s"] for stage in STAGES))
        assert row["steady_s"] > 0
        assert row["before_s"] is None
    assert data["command"] == (
        f"spark-speech bench coldstart --folder parakeet={folder} --repeats 1 --seconds 2.0 --plot {plot}"
    )
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert not plot.with_name("plot.png.part").exists()

    kept = home / "bench" / "coldstart.jsonl"
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    kept.write_text("".join(json.dumps({**line, "total_s": 0.01}) + "\n" for line in lines))
    _, again = bench(capsys, *options)
    assert {row["regression"] for row in again["rows"]} == {"slower"}
    assert sum(note.startswith("Regression: parakeet") for note in again["notes"]) == 3


def test_mistakes_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_SPEECH__PATHS__HOME", str(tmp_path / "home"))
    code, data = bench(capsys, "--folder", "parakeet")
    assert (code, data["error"]) == (2, "ConfigurationError")
    code, data = bench(capsys, "--folder", "parakit=x")
    assert "did you mean 'parakeet'" in data["message"]
    code, data = bench(capsys, "--plot", str(tmp_path / "nowhere" / "plot.png"))
    assert (code, "no folder for the plot" in data["message"]) == (2, True)
    code, data = bench(capsys, "--engines", "moonshine")
    assert data["error"] == "ReleaseNotFoundError"
    code, data = bench(capsys, "--folder", f"parakeet={tmp_path / 'nothing'}", "--repeats", "1")
    assert data["error"] == "ModelLoadError"
