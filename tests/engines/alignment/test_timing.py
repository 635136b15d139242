"""Words' times are in order, within the recording, and say which were measured."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engines.alignment.base import Emissions, Reach
from orchestrator.engines.alignment.spelling import Letters
from orchestrator.engines.alignment.timing import line, word_times
from orchestrator.engines.alignment.trellis import ANYTHING, Span

LETTERS = Letters({letter: number for number, letter in enumerate("abcde", start=1)})
APART = Letters({letter: number for number, letter in enumerate("abcde", start=1)}, separator=9)
WORDS = st.lists(st.text("abcde17", min_size=1, max_size=5), min_size=1, max_size=8)


def emissions(first_ms: float = 0.0, frame_ms: float = 20.0) -> Emissions:
    return Emissions(np.zeros((0, 6), dtype=np.float32), first_ms, frame_ms)


def test_a_text_is_one_line_of_tokens() -> None:
    assert line(["ab", "c"], LETTERS) == ([1, 2, 3], [(0, 2), (2, 3)])
    assert line(["ab", "c"], APART) == ([1, 2, 9, 3], [(0, 2), (3, 4)])


def test_neighbours_that_cannot_be_spelt_are_one_sound() -> None:
    assert line(["a", "7", "1", "b"], APART) == ([1, 9, ANYTHING, 9, 2], [(0, 1), (2, 3), (2, 3), (4, 5)])


def test_words_reach_beyond_their_tokens_and_share_what_is_between_them() -> None:
    words = ["a", "b", "c"]
    found = [Span(10, 11, 0.8), Span(12, 13, 0.6), Span(50, 51, 0.4)]
    times = word_times(words, line(words, LETTERS), found, emissions(), Reach(30, 60), 2000)
    # 200..220 and 240..260 ms would overlap: the 20 ms between them are shared 2 to 1.
    assert [(word.start_ms, word.end_ms) for word in times] == [(170, 233), (233, 320), (970, 1080)]
    assert [word.confidence for word in times] == [0.8, 0.6, 0.4]
    assert all(word.measured for word in times)


def test_words_that_cannot_be_spelt_share_their_sound_by_their_letters_and_are_not_measured() -> None:
    words = ["a", "17", "171717", "b"]
    found = [Span(0, 5, 1.0), Span(5, 45, 0.9), Span(45, 50, 1.0)]
    times = word_times(words, line(words, LETTERS), found, emissions(), Reach(0, 0), 1000)
    assert [(word.start_ms, word.end_ms) for word in times] == [(0, 100), (100, 300), (300, 900), (900, 1000)]
    assert [word.measured for word in times] == [True, False, False, True]
    assert times[1].confidence == 0.0


@given(
    words=WORDS,
    steps=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=64, max_size=64),
    first_ms=st.floats(-80, 80),
    frame_ms=st.floats(5, 80),
    reach=st.tuples(st.floats(0, 200), st.floats(0, 200)),
    length_ms=st.integers(1, 10_000),
)
def test_times_never_go_back_and_stay_in_the_recording(
    words: list[str],
    steps: list[tuple[int, int]],
    first_ms: float,
    frame_ms: float,
    reach: tuple[float, float],
    length_ms: int,
) -> None:
    text = line(words, LETTERS)
    found, now = [], 0
    for gap, size in steps[: len(text.tokens)]:
        found.append(Span(now + gap, now + gap + size, 0.5))
        now += gap + size
    times = word_times(words, text, found, emissions(first_ms, frame_ms), Reach(*reach), length_ms)
    assert len(times) == len(words)
    assert all(0 <= word.start_ms <= word.end_ms <= length_ms for word in times)
    assert all(left.end_ms <= right.start_ms for left, right in pairwise(times))
    assert [word.measured for word in times] == [bool(LETTERS.spell(word)) for word in words]
