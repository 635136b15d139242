from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engines.base import RecognizedWord
from orchestrator.engines.whisper.words import LONGEST_WORD_MS, TimedToken, grouped, moved, settled

_ms = st.integers(-5_000, 40_000)
_word = st.builds(
    RecognizedWord,
    st.text(st.sampled_from("ab \t\n"), max_size=4),
    _ms,
    _ms,
    st.floats(allow_nan=True, allow_infinity=True),
)


def tokens(*texts: str | bytes) -> list[TimedToken]:
    data = [text if isinstance(text, bytes) else text.encode() for text in texts]
    return [TimedToken(one, n * 100, n * 100 + 100, 0.1 * n) for n, one in enumerate(data)]


def texts(*parts: str | bytes, spaced: bool = True) -> list[str]:
    return [word.text for word in grouped(tokens(*parts), spaced=spaced)]


def test_a_space_begins_a_word_and_marks_belong_to_the_word_before() -> None:
    assert texts(" Hel", "lo", ",", " world", "!", " ", "x") == ["Hello,", "world!", "x"]


def test_a_word_spans_its_tokens_and_has_their_mean_probability() -> None:
    first, second = grouped(tokens(" a", "b", " c"))
    assert (first.start_ms, first.end_ms, first.confidence) == (0, 200, 0.05)
    assert (second.start_ms, second.end_ms, second.confidence) == (200, 300, 0.2)


def test_without_spaces_each_whole_letter_is_a_word() -> None:
    letter = "語".encode()
    assert texts("日", "本", letter[:1], letter[1:2], letter[2:], "。", "x", spaced=False) == [
        "日",
        "本",
        "語。",
        "x",
    ]
    # Letters whose bytes are split inside a word that spaces bound stay together as well.
    assert texts(" ", letter[:2], letter[2:], "a") == ["語a"]


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert texts(b" \xff\xfe", b" ok", spaced=True) == ["\ufffd\ufffd", "ok"]
    assert texts(b"\xff", b"\xfe", spaced=False) == ["\ufffd\ufffd"]


@given(st.lists(st.binary(min_size=1, max_size=4), max_size=20), st.booleans())
def test_grouping_loses_no_letter(data: list[bytes], spaced: bool) -> None:
    whole = b"".join(data)
    parts = [TimedToken(one, 0, 0, 1.0) for one in data]
    said = "".join(word.text for word in grouped(parts, spaced=spaced))
    try:
        text = whole.decode()
    except UnicodeDecodeError:
        return
    strip = {ord(char): None for char in text + said if char.isspace()}
    assert said.translate(strip) == text.translate(strip)


@given(st.lists(_word, max_size=30), st.integers(0, 1000), st.integers(0, 30_000))
def test_times_are_sound_whatever_came(words: list[RecognizedWord], begin: int, length: int) -> None:
    end = begin + length
    found = settled(words, begin, end)
    assert [word.text for word in found] == [
        " ".join(word.text.split()) for word in words if word.text.strip()
    ]
    for word in found:
        assert begin <= word.start_ms <= word.end_ms <= end
        assert word.end_ms - word.start_ms <= LONGEST_WORD_MS
        assert 0 <= word.confidence <= 1
        assert math.isfinite(word.confidence)
    assert all(one.end_ms <= two.start_ms for one, two in pairwise(found))
    assert settled(found, begin, end) == found


def test_words_move_together() -> None:
    (word,) = moved([RecognizedWord("a", 10, 20, 0.5)], 1000)
    assert (word.start_ms, word.end_ms) == (1010, 1020)
