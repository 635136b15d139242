from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.transcript.wording import spoken_words, word_error_rate, word_errors

words = st.lists(st.sampled_from("abc"), max_size=6)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("OK, call me at 4728.", "okay call me at four seven two eight"),
        ("It's 9 o'clock -- 'now'!", "it's nine o'clock now"),
        ("Grüße aus Köln", "grüsse aus köln"),
        ("snake_case", "snake case"),
        ("... 。", ""),
    ],
)
def test_texts_that_sound_alike_are_alike(text: str, spoken: str) -> None:
    assert spoken_words(text) == spoken.split()


@given(words, words)
def test_errors_are_a_distance(one: list[str], other: list[str]) -> None:
    assert word_errors(one, other) == word_errors(other, one)
    assert abs(len(one) - len(other)) <= word_errors(one, other) <= max(len(one), len(other))
    assert (word_errors(one, other) == 0) == (one == other)


@given(words, words, words)
def test_a_detour_is_no_shorter(one: list[str], other: list[str], third: list[str]) -> None:
    assert word_errors(one, third) <= word_errors(one, other) + word_errors(other, third)


def test_rates() -> None:
    assert word_error_rate("call anna now", "Call Anna, now!") == 0
    assert word_error_rate("call anna now", "call hannah") == pytest.approx(2 / 3)
    assert word_error_rate("", "noise") == 1
    assert word_error_rate("one", "") == 1
