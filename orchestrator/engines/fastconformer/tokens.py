"""The text of a recogniser's tokens."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_NOT_TEXT: Final = re.compile(r"\[.*\]|<.*>|##.*|\u2581.*", re.DOTALL)
"""Pieces that NeMo does not take punctuation from: names in brackets, and starts of words."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The text of a checkpoint's tokens.

    Attributes:
        pieces: SentencePiece pieces by id, without the blank.
        marks: punctuation characters of the vocabulary, sorted.
        unknown: ids of unknown pieces.
        control: ids that add nothing to the text.
    """

    pieces: tuple[str, ...]
    marks: tuple[str, ...] = ()
    unknown: tuple[int, ...] = ()
    control: tuple[int, ...] = ()


def punctuation(pieces: Iterable[str]) -> tuple[str, ...]:
    """Punctuation characters of a vocabulary, sorted; the same set as NeMo takes."""
    return tuple(
        sorted(
            {
                character
                for piece in pieces
                if not _NOT_TEXT.fullmatch(piece)
                for character in piece
                if unicodedata.category(character).startswith("P")
            }
        )
    )
