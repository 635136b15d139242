"""How many words of a text are wrong: a quick check for where the extra ``[bench]`` is not installed.

Texts that mean the same are spelt the same first, as far as that needs no dictionary: case, punctuation, and
numbers digit by digit, as somebody reads them out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_DIGITS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_NO_WORD: Final = re.compile(r"[^\w']+|_")
_SPELLINGS: Final = {"ok": "okay", "mr": "mister", "hallo": "hello"}
"""What recognisers write in two ways for one sound."""


def spoken_words(text: str) -> list[str]:
    """The words of ``text``, lower case, without punctuation, digits as words."""
    spelt = re.sub(r"[0-9]", lambda digit: f" {_DIGITS[int(digit[0])]} ", text.casefold())
    words = (word.strip("'") for word in _NO_WORD.sub(" ", spelt).split())
    return [_SPELLINGS.get(word, word) for word in words if word]


def word_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Levenshtein distance in words: substitutions + deletions + insertions."""
    row = list(range(len(hypothesis) + 1))
    for count, wanted in enumerate(reference, 1):
        above, row = row, [count]
        for place, got in enumerate(hypothesis, 1):
            row.append(min(above[place] + 1, row[-1] + 1, above[place - 1] + (wanted != got)))
    return row[-1]


def word_error_rate(reference: str, hypothesis: str) -> float:
    """Errors for each spoken word of the reference, 0 and up; all that was heard where nothing was said."""
    wanted = spoken_words(reference)
    return word_errors(wanted, spoken_words(hypothesis)) / max(1, len(wanted))
