"""Spoken numbers to digits: the inverse text normalisation there is here.

text2num writes cardinals, ordinals and decimals from three up in digits; dates, times, money and units stay
as they were said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from text_to_num import find_numbers

LANGUAGES: Final = frozenset({"da", "de", "en", "es", "fr", "it", "nl", "pt"})
"""Primary tags of the languages whose numbers it reads."""


@dataclass(frozen=True, slots=True)
class Number:
    """``text`` stands for the words from ``begin`` up to, not including, ``end``."""

    text: str
    begin: int
    end: int


class _Token:
    """One word as text2num sees it."""

    def __init__(self, text: str, apart: bool) -> None:
        self._text = text
        self._apart = apart

    def text(self) -> str:
        return self._text

    def nt_separated(self, previous: object) -> bool:
        return self._apart

    def not_a_number_part(self) -> bool:
        return False


def find(words: Sequence[str], apart: Sequence[bool], language: str) -> list[Number]:
    """The numbers among ``words``, in order.

    Args:
        words: without punctuation.
        apart: whether something (punctuation, silence) stands between a word and the one before it.
        language: one of `LANGUAGES`.
    """
    tokens = [_Token(word.lower(), gap) for word, gap in zip(words, apart, strict=True)]
    return [Number(found.text, found.start, found.end) for found in find_numbers(tokens, language)]
