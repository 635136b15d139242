from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.training.augment import (
    Conditions,
    add_noise,
    colored_noise,
    compose,
    join,
    room,
    telephone,
)

QUIET = Conditions(noise=0.0, telephone=0.0, room=0.0, gain=(1.0, 1.0))


def tone(seconds: float, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * 16_000)) / 16_000)).astype(np.float32)


def band(audio: np.ndarray, low: float, high: float) -> float:
    power = np.abs(np.fft.rfft(audio)) ** 2
    hz = np.fft.rfftfreq(audio.size, 1 / 16_000)
    return float(power[(hz >= low) & (hz < high)].sum())


def test_join_puts_silence_around_and_between():
    audio = join([np.ones(100, np.float32), np.ones(50, np.float32)], [0.01, 0.02, 0.005])
    assert audio.size == 160 + 100 + 320 + 50 + 80
    assert np.flatnonzero(audio)[[0, 99, 100, -1]].tolist() == [160, 259, 580, 629]


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 30.0])
def test_noise_comes_at_the_asked_level(snr_db):
    speech, noise = tone(1.0), colored_noise(np.random.default_rng(0), 16_000, 1.0)
    added = add_noise(speech, noise, snr_db) - speech
    assert 10 * np.log10(np.mean(speech**2) / np.mean(added**2)) == pytest.approx(snr_db, abs=0.3)


def test_noise_falls_with_its_exponent():
    rng = np.random.default_rng(0)
    white, brown = (colored_noise(rng, 32_000, exponent) for exponent in (0.0, 2.0))
    assert band(white, 4000, 8000) / band(white, 0, 4000) == pytest.approx(1.0, rel=0.1)
    assert band(brown, 4000, 8000) < 0.01 * band(brown, 0, 4000)


def test_telephone_keeps_only_the_lower_4_khz():
    heard = telephone(tone(1.0, 1000) + tone(1.0, 6000))
    assert heard.size == 16_000
    assert band(heard, 5000, 8000) < 0.01 * band(heard, 500, 1500)


def test_room_keeps_length_and_onset():
    audio = join([tone(0.2)], [0.5, 0.5])
    wet = room(audio, np.random.default_rng(0))
    assert wet.size == audio.size
    assert np.abs(wet[:7900]).max() < 1e-4
    assert np.abs(wet[int(0.72 * 16_000) : int(0.75 * 16_000)]).max() > 1e-3


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(100, 4000), max_size=4), st.integers(0, 1000))
def test_compose_tells_where_each_part_starts(lengths, seed):
    parts = [np.full(length, 0.5, np.float32) for length in lengths]
    audio, starts = compose(parts, QUIET, np.random.default_rng(seed))
    expected = np.zeros(audio.size, bool)
    for start, length in zip(starts, lengths, strict=True):
        expected[start : start + length] = True
    np.testing.assert_array_equal(audio != 0, expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_composed_recordings_stay_in_range_and_repeat(seed):
    parts = [tone(0.3), tone(0.2)]
    first, _ = compose(parts, Conditions(), np.random.default_rng(seed))
    again, _ = compose(parts, Conditions(), np.random.default_rng(seed))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert np.abs(first).max() <= 1.0
