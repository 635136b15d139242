"""Scores against counts done by hand."""

from __future__ import annotations

import pytest

from orchestrator.bench.recordings import SpokenLine
from orchestrator.bench.scoring import ErrorRate, normalize, speaker_error_rate, word_error_rate
from orchestrator.transcript.models import Segment, Transcript


def transcript(*lines: tuple[str | None, float, float, str]) -> Transcript:
    return Transcript(
        segments=tuple(
            Segment(speaker=who, start=start, end=end, text=text) for who, start, end, text in lines
        )
    )


REFERENCE = (SpokenLine("ann", 0.0, 1.0, "Hello there."), SpokenLine("bob", 1.0, 2.0, "Good bye, Ann!"))


def test_case_and_punctuation_are_not_errors() -> None:
    assert word_error_rate("Hello, there! It's ten.", "hello there it is 10").rate == 0


@pytest.mark.parametrize(
    ("hypothesis", "expected"),
    [
        ("a dog sat down", ErrorRate(1, 0, 0, 4)),
        ("a cat down", ErrorRate(0, 1, 0, 4)),
        ("a cat sat down there now", ErrorRate(0, 0, 2, 4)),
    ],
)
def test_each_kind_of_error_is_counted(hypothesis: str, expected: ErrorRate) -> None:
    assert word_error_rate("A cat sat down.", hypothesis) == expected


def test_an_empty_reference_counts_insertions_only() -> None:
    assert word_error_rate("", "two words") == ErrorRate(0, 0, 2, 0)
    assert word_error_rate("", "").rate == 0


def test_rates_add_up_as_one_text() -> None:
    total = ErrorRate(1, 0, 0, 10) + ErrorRate(0, 1, 2, 30)
    assert (total.errors, total.words, total.rate) == (4, 40, 0.1)


def test_speaker_names_do_not_matter() -> None:
    swapped = transcript(("1", 0, 1, "hello there"), ("0", 1, 2, "good bye ann"))
    assert speaker_error_rate(REFERENCE, swapped).rate == 0


def test_a_word_of_the_wrong_speaker_is_an_error() -> None:
    moved = transcript(("1", 0, 1, "hello there good"), ("0", 1, 2, "bye ann"))
    assert speaker_error_rate(REFERENCE, moved).errors == 2  # one inserted, one deleted


def test_words_without_a_speaker_are_scored_too() -> None:
    unnamed = transcript(("1", 0, 1, "hello there"), (None, 1, 2, "good bye ann"))
    assert speaker_error_rate(REFERENCE, unnamed).rate == 0


@pytest.mark.parametrize("text", ["", "[noise]", "!?"])
def test_text_of_no_words_normalises_to_nothing(text: str) -> None:
    assert normalize(text) == ""
