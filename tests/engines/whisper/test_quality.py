from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engines.base import RecognizedWord
from orchestrator.engines.whisper.quality import (
    LOOP_RATIO,
    Decoding,
    Effort,
    Verdict,
    best,
    compression_ratio,
    judge,
    kept,
    ladder,
    without_loops,
)

SPEECH = "It was the best of times, it was the worst of times"
LOOP = " ".join(["thank you very much"] * 20)
_texts = st.lists(st.sampled_from(["a", "b", "c", "A.", "no"]), max_size=40)


def words(text: str) -> tuple[RecognizedWord, ...]:
    return tuple(RecognizedWord(word, n * 100, n * 100 + 90, 0.5) for n, word in enumerate(text.split()))


def decoding(text: str, likelihood: float = -0.3, no_speech: float = 0.0) -> Decoding:
    return Decoding(words(text), likelihood, no_speech)


@pytest.mark.parametrize(
    ("attempt", "verdict"),
    [
        (decoding(SPEECH), Verdict.KEEP),
        (decoding(""), Verdict.KEEP),
        (decoding(SPEECH, -0.3, no_speech=0.99), Verdict.KEEP),
        (decoding(SPEECH, -1.2), Verdict.RETRY),
        (decoding(SPEECH, math.nan), Verdict.RETRY),
        (decoding(LOOP), Verdict.RETRY),
        (decoding(LOOP, -0.3, no_speech=0.99), Verdict.RETRY),
        (decoding(SPEECH, -1.2, no_speech=0.7), Verdict.DROP),
        (decoding(SPEECH, -1.2, no_speech=0.5), Verdict.RETRY),
    ],
)
def test_an_attempt_is_judged_by_likelihood_repetition_and_silence(
    attempt: Decoding, verdict: Verdict
) -> None:
    assert judge(attempt) is verdict


def test_the_likeliest_text_that_does_not_loop_is_kept() -> None:
    attempts = [
        decoding(LOOP, -0.1),
        decoding("worse", -2.0),
        decoding("better", -1.5),
        decoding("x", math.nan),
    ]
    assert best(attempts).text == "better"
    assert [word.text for word in kept(attempts)] == ["better"]


def test_where_all_loop_the_phrase_is_said_once() -> None:
    assert " ".join(word.text for word in kept([decoding(LOOP, -0.1)])) == "thank you very much"


def test_what_is_no_speech_has_no_words() -> None:
    assert kept([decoding(SPEECH, -1.2, no_speech=0.9)]) == ()


@pytest.mark.parametrize(
    ("said", "once"),
    [
        ("no no no no", "no"),
        ("no no", "no no"),
        ("well, Well. WELL! yes", "well, yes"),
        ("so a b a b a b end", "so a b end"),
        ("a a a b b b", "a b"),
        ("? ? ? !", "? !"),
    ],
)
def test_a_phrase_three_times_in_a_row_is_a_loop(said: str, once: str) -> None:
    assert " ".join(word.text for word in without_loops(words(said))) == once


@given(_texts)
def test_loops_leave_in_order_and_nothing_new(text: list[str]) -> None:
    before = words(" ".join(text))
    after = without_loops(before)
    places = [before.index(word) for word in after]
    assert places == sorted(set(places))
    assert after[:1] == before[:1]
    if after == before:
        plain = [word.text.rstrip(".").lower() for word in before]
        assert not any(plain[n] == plain[n + 1] == plain[n + 2] for n in range(len(plain) - 2))


@given(st.text(max_size=200))
def test_the_compression_ratio_grows_with_repetition(text: str) -> None:
    assert compression_ratio(text) >= 0
    assert compression_ratio(text * 50) >= compression_ratio(text)


def test_ordinary_speech_is_no_loop() -> None:
    assert compression_ratio(SPEECH) < LOOP_RATIO < compression_ratio(LOOP)
    assert compression_ratio("") == 0


def test_sure_efforts_come_before_drawn_ones() -> None:
    assert ladder(()) == (Effort(), Effort(no_repeats=True))
    assert [effort.temperature for effort in ladder((0.4, 0.8))] == [0, 0, 0.4, 0.8]
