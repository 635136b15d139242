"""What is kept of earlier cold starts, and when a new one counts as slower."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bench.coldstart import history
from orchestrator.bench.coldstart.history import Start, append, earlier_s, is_regression, read


def start(total_s: float, engine: str = "moonshine", machine: str = "x86_64, 2 cores") -> Start:
    return Start(engine, "cpu", "cold", machine, total_s)


def test_what_is_kept_is_read_again_and_damage_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "bench" / "coldstart.jsonl"
    assert read(path) == []
    append(path, [start(1.0)])
    with path.open("a") as file:
        file.write('not json\n{"engine": "x"}\n[]\n')
    append(path, [start(2.0), start(3.0, engine="parakeet")])
    assert read(path) == [start(1.0), start(2.0), start(3.0, engine="parakeet")]


def test_only_the_last_runs_of_the_same_thing_count() -> None:
    old = [start(100.0), *(start(float(second)) for second in range(1, 6))]
    others = [start(50.0, engine="parakeet"), start(60.0, machine="aarch64, 20 cores")]
    assert earlier_s(start(1.0), old + others) == 3.0
    assert earlier_s(start(1.0, engine="whisper"), old) is None


@pytest.mark.parametrize(
    ("now", "before", "slower"),
    [
        (10.0, None, False),
        (1.3, 1.0, True),
        (1.2, 1.0, False),
        (0.05, 0.02, False),  # much in proportion, nothing in seconds
        (100.0, 90.0, False),
        (0.5, 1.0, False),
    ],
)
def test_slower_is_more_than_chance(now: float, before: float | None, slower: bool) -> None:
    assert is_regression(now, before) is slower


@given(st.floats(0.01, 1000), st.floats(0.01, 1000))
def test_a_start_as_fast_as_before_is_no_regression(one: float, other: float) -> None:
    assert not is_regression(min(one, other), max(one, other))
    assert history.SLOWER > 1
