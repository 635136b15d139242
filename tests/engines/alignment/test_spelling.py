from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engines.alignment.spelling import Letters, Pieces

LETTERS = Letters({letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz'", start=1)})
UPPER = Letters(
    {"<pad>": 0, "|": 4, **{letter: number for number, letter in enumerate("ABCDEN'", start=5)}}, 4
)
# In the order in which byte-pair encoding made them, as SentencePiece keeps it.
PIECES = ["<unk>", "\u2581h", "el", "lo", "\u2581hel", "\u2581", "h", "e", "l", "o", "ello", "'"]


def test_letters_are_found_whatever_their_case_and_punctuation_is_left_out() -> None:
    assert LETTERS.spell("Cab,") == (3, 1, 2)
    assert UPPER.spell("(cab)") == (7, 5, 6)
    assert LETTERS.spell("don\u2019t") == LETTERS.spell("don't") == (4, 15, 14, 27, 20)


def test_an_accent_that_the_model_does_not_know_is_left_out() -> None:
    assert LETTERS.spell("caf\u00e9") == LETTERS.spell("cafe")


@pytest.mark.parametrize("word", ["1942", "b4", "\u0c95\u0ca8\u0ccd\u0ca8\u0ca1", "-", "...", "", "'"])
def test_a_word_with_a_sound_that_has_no_letter_is_spelt_as_nothing(word: str) -> None:
    assert LETTERS.spell(word) == ()


@given(st.text())
def test_spelling_takes_any_text(word: str) -> None:
    spelt = LETTERS.spell(word)
    assert all(1 <= token <= 27 for token in spelt)
    assert len(spelt) <= 4 * len(word) + 4


def test_pieces_join_in_the_order_in_which_they_were_made() -> None:
    pieces = Pieces(PIECES, without=(0,))
    # "el" was made before "▁hel", and "lo" before "ello".
    assert [PIECES[token] for token in pieces.spell("Hello!")] == ["\u2581hel", "lo"]
    assert pieces.spell("hex") == ()


def test_a_model_with_capitals_keeps_them() -> None:
    pieces = Pieces(["\u2581", "A", "a", "\u2581A"])
    assert pieces.spell("A") == (3,)
    assert pieces.spell("a") == (0, 2)
