"""Words as the tokens of a CTC model; pure. A word that a model has no tokens for is spelt as nothing."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Final, Protocol

_SPACE: Final = "\u2581"
"""SentencePiece's sign for a space inside a piece."""
_APOSTROPHES: Final = str.maketrans({"\u2019": "'", "\u02bc": "'", "`": "'"})


class Speller(Protocol):
    """Gives words their tokens."""

    @property
    def separator(self) -> int | None:
        """The token between two words, where the model has one."""

    def spell(self, word: str) -> tuple[int, ...]:
        """The tokens of ``word``, none where a letter or digit of it has no token."""


def _plain(word: str) -> str:
    """``word`` in one form of Unicode, without white space, its apostrophes all alike."""
    return "".join(unicodedata.normalize("NFKC", word).translate(_APOSTROPHES).split())


def _cases(word: str) -> tuple[str, ...]:
    """How a model may write ``word``: as it is, small, large; each also without accents."""
    forms = [word, word.lower(), word.upper()]
    bare = [
        "".join(char for char in unicodedata.normalize("NFD", form) if unicodedata.category(char) != "Mn")
        for form in forms
    ]
    return tuple(dict.fromkeys(forms + bare))


def _spoken(char: str) -> bool:
    """Whether a character is said: letters, digits and the marks that scripts write vowels with."""
    return char.isalnum() or unicodedata.category(char).startswith("M")


class Letters:
    """A model whose tokens are letters, as those of wav2vec2 are."""

    def __init__(self, tokens: Mapping[str, int], separator: int | None = None) -> None:
        """Take the letters' ids. A character that is not said may be left out of a word; others may not."""
        self._tokens = {letter: token for letter, token in tokens.items() if len(letter) == 1}
        self.separator = separator

    def spell(self, word: str) -> tuple[int, ...]:
        """See `Speller.spell`."""
        return _first(_cases(_plain(word)), self._spelt)

    def _spelt(self, text: str) -> tuple[int, ...]:
        known = [char for char in text if char in self._tokens and (_spoken(char) or char == "'")]
        said = sum(map(_spoken, text))
        if not said or sum(map(_spoken, known)) < said:
            return ()
        return tuple(self._tokens[char] for char in known)


class Pieces:
    """A model whose tokens are SentencePiece pieces made by byte-pair encoding, as those of Parakeet are."""

    separator: int | None = None

    def __init__(self, pieces: Sequence[str], *, without: Sequence[int] = ()) -> None:
        """Take the pieces by id, in the order in which they were merged; ``without`` names no text."""
        left_out = set(without)
        self._ids = {piece: number for number, piece in enumerate(pieces) if number not in left_out}

    def spell(self, word: str) -> tuple[int, ...]:
        """See `Speller.spell`."""
        return _first(_cases(_plain(word)), self._spelt)

    def _spelt(self, text: str) -> tuple[int, ...]:
        said = "".join(char for char in text if _spoken(char) or (char == "'" and char in self._ids))
        if not any(map(_spoken, said)):
            return ()
        parts = self._merged([_SPACE, *said])
        if any(part not in self._ids for part in parts):
            return ()
        return tuple(self._ids[part] for part in parts)

    def _merged(self, parts: list[str]) -> list[str]:
        """Byte-pair encoding: join the neighbours whose piece was made first, as long as there are any."""
        while True:
            joints = [
                (self._ids[left + right], place)
                for place, (left, right) in enumerate(pairwise(parts))
                if left + right in self._ids
            ]
            if not joints:
                return parts
            _, place = min(joints)
            parts = [*parts[:place], parts[place] + parts[place + 1], *parts[place + 2 :]]


def _first(forms: Sequence[str], spelt: Callable[[str], tuple[int, ...]]) -> tuple[int, ...]:
    return next((tokens for tokens in map(spelt, forms) if tokens), ())
