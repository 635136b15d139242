from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.whisper.windows import WINDOW_S, Window, windows_of

FRAME = 1280
_runs = st.lists(st.tuples(st.booleans(), st.integers(1, 500)), max_size=8)


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.1, int(seconds * SAMPLE_RATE_HZ)).astype(np.float32)


def speech(*runs: tuple[bool, int]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.bool_), *(np.full(count, value) for value, count in runs)])


def cut(*runs: tuple[bool, int]) -> list[Window]:
    active = speech(*runs)
    return windows_of(noise(active.size * FRAME / SAMPLE_RATE_HZ), active, FRAME)


@settings(max_examples=50, deadline=None)
@given(_runs, st.integers(0, FRAME - 1))
def test_windows_are_in_order_apart_short_and_hold_all_speech(
    runs: list[tuple[bool, int]], rest: int
) -> None:
    active = speech(*runs)
    samples = np.zeros(active.size * FRAME + rest, np.float32)
    found = windows_of(samples, active, FRAME)
    covered = np.zeros(samples.size, np.bool_)
    for window in found:
        assert 0 < window.samples.size <= WINDOW_S * SAMPLE_RATE_HZ
        assert not covered[window.start : window.start + window.samples.size].any()
        covered[window.start : window.start + window.samples.size] = True
    assert all(one.start + one.samples.size <= two.start for one, two in pairwise(found))
    # All but runs of clicks' length is kept: every speech frame is in a window.
    assert covered[: active.size * FRAME][np.repeat(active, FRAME)].all()
    if not active.any():
        assert found == []


def test_a_long_pause_parts_windows_and_a_short_one_does_not() -> None:
    assert len(cut((True, 30), (False, 15), (True, 30))) == 1
    first, second = cut((False, 20), (True, 30), (False, 60), (True, 30))
    assert first.start_ms == pytest.approx(20 * 80 - 360, abs=40)  # with what is heard around it
    assert second.start_ms == pytest.approx(110 * 80 - 360, abs=40)
    assert first.duration_ms < 30 * 80 + 1000


def test_speech_without_end_is_cut_where_it_is_quietest() -> None:
    samples = noise(50)
    quiet = 22 * SAMPLE_RATE_HZ
    samples[quiet : quiet + 3200] = 0
    found = windows_of(samples, np.ones(samples.size // FRAME, np.bool_), FRAME)
    assert len(found) == 2
    assert quiet <= found[1].start <= quiet + 3200


def test_nothing_is_made_of_nothing() -> None:
    assert windows_of(np.zeros(0, np.float32), np.zeros(0, np.bool_), FRAME) == []
    assert windows_of(np.zeros(100, np.float32), np.zeros(0, np.bool_), FRAME) == []
