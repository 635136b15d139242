from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engines.nemo_batches import plan_batches, run_splitting


class OutOfMemory(Exception):
    pass


@given(
    st.lists(st.integers(1, 100), max_size=60),
    st.integers(1, 400),
    st.integers(1, 16),
)
def test_groups_hold_every_recording_once_within_the_bounds(
    lengths: list[int], max_padded: int, max_items: int
) -> None:
    groups = plan_batches(lengths, max_padded=max_padded, max_items=max_items)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        padded = len(group) * max(lengths[index] for index in group)
        assert len(group) == 1 or (padded <= max_padded and len(group) <= max_items)


def test_recordings_of_near_length_go_together() -> None:
    assert plan_batches([1, 100, 2, 99], max_padded=200, max_items=8) == [[1, 3], [2, 0]]


def test_a_recording_over_the_bound_goes_alone() -> None:
    assert plan_batches([500, 10, 10], max_padded=100, max_items=8) == [[0], [1, 2]]


class Memory:
    """A step that fits ``limit`` recordings."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.tried: list[int] = []
        self.released = 0

    def step(self, group: Sequence[int]) -> list[str]:
        self.tried.append(len(group))
        if len(group) > self.limit:
            raise OutOfMemory
        return [f"result {index}" for index in group]

    def release(self) -> None:
        self.released += 1

    def run(self, group: list[int]) -> list[str]:
        return run_splitting(group, self.step, out_of_memory=OutOfMemory, release=self.release)


@given(st.lists(st.integers(), min_size=1, max_size=20, unique=True), st.integers(1, 20))
def test_every_recording_gets_its_result_in_order(group: list[int], limit: int) -> None:
    assert Memory(limit).run(group) == [f"result {index}" for index in group]


def test_a_step_that_does_not_fit_runs_in_halves(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(limit=2)
    with caplog.at_level(logging.WARNING):
        memory.run([0, 1, 2, 3, 4])
    assert memory.tried == [5, 2, 3, 1, 2]
    assert memory.released == 2
    assert "5 recordings" in caplog.text


def test_a_single_recording_that_does_not_fit_is_the_callers_problem() -> None:
    with pytest.raises(OutOfMemory):
        Memory(limit=0).run([0, 1])


def test_other_errors_are_not_retried() -> None:
    def broken(group: Sequence[int]) -> list[str]:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run_splitting([0, 1], broken, out_of_memory=OutOfMemory, release=lambda: None)
