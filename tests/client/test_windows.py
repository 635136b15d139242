from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.client.windows import Loudness, plan
from orchestrator.contract import SAMPLE_RATE_HZ


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.1, int(seconds * SAMPLE_RATE_HZ)).astype(np.float32)


def test_audio_that_fits_is_one_window() -> None:
    (window,) = plan(noise(3.0), 3.0, 1.0)
    assert (window.start, window.end, window.cut) == (0, 48_000, 0)


def test_empty_audio_is_one_empty_window() -> None:
    (window,) = plan(np.zeros(0, np.float32), 30.0, 4.0)
    assert window.end == 0


@settings(max_examples=80, deadline=None)
@example(total=2.0, longest=1.0, overlap=0.0001, seed=0, silent=False)  # an overlap of one sample
@given(
    total=st.floats(0.5, 120.0),
    longest=st.floats(1.0, 30.0),
    overlap=st.floats(0.0, 12.0),
    seed=st.integers(0, 5),
    silent=st.booleans(),
)
def test_windows_cover_everything_and_none_is_too_long(
    total: float, longest: float, overlap: float, seed: int, silent: bool
) -> None:
    samples = noise(total, seed) * np.float32(not silent)
    windows = plan(samples, longest, overlap)
    assert windows[0].start == 0
    assert windows[0].cut == 0
    assert windows[-1].end == len(samples)
    for window in windows:
        assert window.start < window.end
        assert window.end - window.start <= longest * SAMPLE_RATE_HZ
    for before, after in itertools.pairwise(windows):
        assert before.start <= before.cut < after.start <= after.cut <= before.end
        assert before.end - after.start <= overlap * SAMPLE_RATE_HZ + 1
    for first, third in zip(windows, windows[2:], strict=False):
        assert first.end <= third.start, "three windows must never share a word"
    if overlap >= 1.0 and longest >= 4.0:
        for before, after in itertools.pairwise(windows):
            assert before.end > after.cut > after.start, "both sides of a cut are heard twice"


def test_cuts_fall_into_the_pauses() -> None:
    samples = noise(60.0)
    pauses = [(12.3, 12.8), (24.9, 25.5), (37.0, 37.6), (48.8, 49.3)]
    for start, end in pauses:
        samples[int(start * SAMPLE_RATE_HZ) : int(end * SAMPLE_RATE_HZ)] *= 0.001
    windows = plan(samples, 18.0, 3.0)
    assert len(windows) >= 4
    for window in windows[1:]:
        assert any(start <= window.cut / SAMPLE_RATE_HZ <= end for start, end in pauses), window


def test_a_stop_consonant_is_not_a_pause() -> None:
    """80 ms of closure, near where an even cut would fall, loses against a real pause further away."""
    samples = noise(36.0)
    samples[int(18.0 * SAMPLE_RATE_HZ) : int(18.08 * SAMPLE_RATE_HZ)] = 0
    samples[int(20.0 * SAMPLE_RATE_HZ) : int(20.6 * SAMPLE_RATE_HZ)] *= 0.01
    windows = plan(samples, 24.0, 2.0)
    assert len(windows) == 2
    assert 20.0 <= windows[1].cut / SAMPLE_RATE_HZ <= 20.6


def test_in_long_silence_the_cut_is_in_its_middle() -> None:
    samples = noise(40.0)
    samples[18 * SAMPLE_RATE_HZ : 22 * SAMPLE_RATE_HZ] = 0
    windows = plan(samples, 30.0, 4.0)
    assert len(windows) == 2
    assert windows[1].cut / SAMPLE_RATE_HZ == pytest.approx(20.0, abs=0.2)


def test_windows_are_of_like_length() -> None:
    """A short rest would pad the whole batch."""
    lengths = [window.end - window.start for window in plan(noise(65.0), 30.0, 4.0)]
    assert min(lengths) > 0.5 * max(lengths)


@pytest.mark.parametrize(("longest", "overlap"), [(0.0, 1.0), (-1.0, 0.0), (3.0, -0.1), (float("nan"), 0.0)])
def test_nonsense_is_refused(longest: float, overlap: float) -> None:
    with pytest.raises(ValueError, match="max_window_s"):
        plan(noise(1.0), longest, overlap)


@given(st.integers(1, 80), st.integers(0, 5))
def test_loudness_is_the_mean_over_a_quarter_of_a_second_around_each_frame(frames: int, seed: int) -> None:
    samples = noise(frames / 100, seed)
    energies = (samples.astype(np.float64).reshape(frames, 160) ** 2).mean(axis=1)
    wanted = [energies[max(0, at - 12) : at + 13].mean() for at in range(frames)]
    np.testing.assert_allclose(Loudness.of(samples).energies, wanted, rtol=1e-5)
