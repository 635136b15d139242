"""Bringing caches into a state."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.bench.coldstart import states
from orchestrator.bench.coldstart.benchmark import states_for
from orchestrator.bench.coldstart.states import CacheState, forget, prepare
from orchestrator.coldstart.cuda_cache import policy_violations


@pytest.mark.parametrize("state", list(CacheState))
def test_only_a_cold_start_loses_compiled_code_and_only_a_warm_one_keeps_files_in_memory(
    state: CacheState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    (cache / "cuda").mkdir(parents=True)
    (cache / "cuda" / "kernel").write_text("code")
    dropped: list[Path] = []
    monkeypatch.setattr(states, "forget", dropped.extend)
    environment = prepare(state, cache, [tmp_path])
    assert (cache / "cuda" / "kernel").exists() == (state is not CacheState.COLD)
    assert dropped == ([tmp_path, cache] if state in (CacheState.COLD, CacheState.DISK) else [])
    assert environment["CUDA_CACHE_PATH"].startswith(str(cache))
    assert bool(policy_violations(environment)) == (state is CacheState.FORCED)
    assert environment["PATH"] == os.environ["PATH"]


def test_files_are_dropped_and_what_is_none_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "weights").write_bytes(b"x" * 10_000)
    (tmp_path / "gone").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe")
    assert forget([tmp_path, tmp_path / "nothing"]) == 1


def test_the_switch_for_gpu_code_is_measured_on_gpus() -> None:
    assert CacheState.FORCED not in states_for("cpu")
    assert CacheState.FORCED in states_for("cuda")
