from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from orchestrator.engines.speech_gate import FRAME, Piece, pieces, surroundings

RATE = 16_000


def sound(seconds: float, level: float = 0.2, seed: int = 0) -> NDArray[np.float32]:
    """Noise whose loudness swings as syllables do, five times a second."""
    count = int(seconds * RATE)
    swing = 0.55 + 0.45 * np.sin(2 * np.pi * 5 * np.arange(count) / RATE)
    return (np.random.default_rng(seed).normal(size=count) * level * swing).astype(np.float32)


def silence(seconds: float, level: float = 0.0) -> NDArray[np.float32]:
    return (np.random.default_rng(1).normal(size=int(seconds * RATE)) * level).astype(np.float32)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0, np.float32),
        np.zeros(1, np.float32),
        np.zeros(RATE * 3, np.float32),
        silence(3, level=0.1),
        np.sin(np.arange(RATE * 3) * 0.2).astype(np.float32),
        np.full(RATE * 3, 0.5, np.float32),
    ],
    ids=["empty", "one sample", "silence", "steady noise", "tone", "DC"],
)
def test_no_speech_gives_no_pieces(samples: NDArray[np.float32]) -> None:
    assert pieces(samples, max_s=15, join_s=1) == []


@pytest.mark.parametrize("background", [0.0, 0.001, 0.01])
def test_speech_is_found_where_it_is_over_any_background(background: float) -> None:
    samples = np.concatenate([silence(2), sound(1), silence(3), sound(2), silence(2)])
    samples += silence(len(samples) / RATE, level=background)
    found = pieces(samples, max_s=15, join_s=1)
    assert [len(piece.runs) for piece in found] == [1, 1]
    edges = [value * FRAME / RATE for piece in found for value in (piece.start, piece.end)]
    assert edges == pytest.approx([2, 3, 6, 8], abs=0.25)


@pytest.mark.parametrize("gain", [1.0, 0.1])
def test_quiet_speech_is_found_as_loud_speech_is(gain: float) -> None:
    said = np.concatenate([silence(1), sound(0.6, level=0.02), silence(2), sound(1), silence(1)])
    samples = (said + silence(len(said) / RATE, level=0.0002)) * gain * 0.2
    edges = [value * FRAME / RATE for piece in pieces(samples, max_s=15, join_s=1) for value in piece.runs[0]]
    assert edges == pytest.approx([1, 1.6, 3.6, 4.6], abs=0.25)


def test_stirring_in_a_room_is_not_speech_beside_a_short_word() -> None:
    stirring = sound(3, level=0.0002, seed=3)
    samples = np.concatenate([silence(20), stirring, silence(20), sound(0.4, level=0.005), silence(20)])
    samples += silence(len(samples) / RATE, level=0.00002)
    assert [round(piece.start * FRAME / RATE) for piece in pieces(samples, max_s=15, join_s=1)] == [43]


def test_surroundings_are_real_apart_and_inside_the_recording() -> None:
    found = [Piece(((4, 20),)), Piece(((20, 60), (70, 90))), Piece(((96, 150),)), Piece(((300, 330),))]
    assert surroundings(found, 335) == [(0, 20), (20, 93), (93, 160), (290, 335)]
    assert surroundings([], 335) == []


def test_short_pauses_join_and_long_ones_part() -> None:
    samples = np.concatenate([sound(1), silence(0.8), sound(1), silence(1.8), sound(1)])
    assert [len(piece.runs) for piece in pieces(samples, max_s=15, join_s=1)] == [2, 1]
    assert [len(piece.runs) for piece in pieces(samples, max_s=2, join_s=1)] == [1, 1, 1]


def test_a_lone_click_is_not_speech() -> None:
    samples = silence(2)
    samples[RATE : RATE + 320] = 0.9
    assert pieces(samples, max_s=15, join_s=1) == []


def test_breath_far_below_the_speech_is_not_speech() -> None:
    samples = np.concatenate(
        [sound(2), silence(2), sound(0.5, level=0.005), silence(1), sound(2, level=0.05)]
    )
    found = pieces(samples, max_s=15, join_s=1)
    assert [round(piece.start * FRAME / RATE) for piece in found] == [0, 5]


def test_long_sound_is_cut_where_it_is_quietest() -> None:
    samples = sound(24)
    dip = 11 * RATE
    samples[dip : dip + RATE // 10] *= 0.01
    first, *rest = pieces(samples, max_s=15, join_s=1)
    assert first.end * FRAME / RATE == pytest.approx(11.05, abs=0.1)
    assert rest[0].start == first.end


@settings(max_examples=40, deadline=None)
@given(
    plan=st.lists(st.tuples(st.booleans(), st.floats(0.01, 4)), min_size=1, max_size=8),
    max_s=st.floats(0.5, 6),
    join_s=st.floats(0, 2),
)
def test_pieces_are_in_order_apart_inside_and_no_longer_than_asked(
    plan: list[tuple[bool, float]], max_s: float, join_s: float
) -> None:
    samples = np.concatenate([sound(length) if loud else silence(length) for loud, length in plan])
    found = pieces(samples, max_s=max_s, join_s=join_s)
    runs = [run for piece in found for run in piece.runs]
    assert all(start < end for start, end in runs)
    assert all(before[1] <= after[0] for before, after in pairwise(runs))
    assert all((piece.end - piece.start) * FRAME <= max_s * RATE for piece in found)
    if runs:
        assert runs[0][0] >= 0
        assert runs[-1][1] * FRAME <= samples.size
