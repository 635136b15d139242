"""What the table says of starts that fail, with processes that are not really started."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bench.coldstart import benchmark
from orchestrator.bench.coldstart.probe import STAGES, STEADY
from orchestrator.bench.coldstart.states import CacheState
from orchestrator.bench.report import Report
from orchestrator.errors import ModelLoadError


def starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, fails_when: tuple[str, str]) -> None:
    """Processes start in five seconds, but not where a variable has this value."""

    def stages_of(*_: object, model: str, folder: Path) -> dict[str, float]:
        environment = _[2]
        assert isinstance(environment, Mapping)
        name, value = fails_when
        if environment.get(name) == value:
            raise ModelLoadError("no kernel image is available", fix="none", model=model, path=folder)
        return dict.fromkeys((*STAGES, STEADY), 1.0)

    monkeypatch.setattr(benchmark, "stages_of", stages_of)
    monkeypatch.setattr(benchmark, "packages", lambda: (tmp_path / "packages",))


def run(tmp_path: Path, **more: Any) -> tuple[Report, benchmark.Bars]:
    return benchmark.run(
        {"moonshine": tmp_path / "model"},
        device="cuda",
        repeats=2,
        seconds=1.0,
        cache=tmp_path / "cache",
        kept=tmp_path / "kept.jsonl",
        command="measure it again",
        **more,
    )


def test_a_start_that_the_switch_forbids_is_a_row_and_loses_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts(monkeypatch, tmp_path, fails_when=("CUDA_FORCE_PTX_JIT", "1"))
    report, bars = run(tmp_path, compare={"eager": {"compile": False}})
    rows = {row["caches"]: row for row in report.rows}
    assert list(rows) == [*map(str, CacheState), "warm memory, eager"]
    forced = rows.pop(str(CacheState.FORCED))
    assert (forced["total_s"], forced["regression"]) == (None, "does not start")
    assert {row["total_s"] for row in rows.values()} == {5.0}
    assert report.notes[-1].endswith("no kernel image is available")
    assert len(bars) == len(rows)
    kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert str(CacheState.FORCED) not in {line["state"] for line in kept}


def test_any_other_start_that_fails_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts(monkeypatch, tmp_path, fails_when=("CUDA_FORCE_PTX_JIT", "0"))
    with pytest.raises(ModelLoadError, match="no kernel image"):
        run(tmp_path)


def test_other_weights_and_lengths_are_compared_with_their_own_kind_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts(monkeypatch, tmp_path, fails_when=("CUDA_FORCE_PTX_JIT", "never"))
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(b"small")
    run(tmp_path)
    assert {row["before_s"] for row in run(tmp_path)[0].rows} == {5.0}
    (model / "weights").write_bytes(b"larger weights")
    assert {row["before_s"] for row in run(tmp_path)[0].rows} == {None}
