"""What becomes of an engine's words before a caller reads them: punctuation, numbers, profanity."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from orchestrator.client.routing import primary_tag
from orchestrator.gateway.riva import numbers, profanity
from orchestrator.gateway.riva.errors import unable
from orchestrator.transcript.models import Word

_PAUSE_S: Final = 0.5
"""Two spoken numbers with a silence of this length between them are two numbers."""


@dataclass(frozen=True, slots=True)
class TextRules:
    """What the caller wants to read.

    Attributes:
        punctuation: keep punctuation and capitals where the engine writes them; False: neither.
        digits: write spoken numbers in digits (``verbatim_transcripts`` is false).
        mask: hide profanity.
    """

    punctuation: bool = False
    digits: bool = False
    mask: bool = False


class Writer:
    """Applies `TextRules`; keeps the word lists that it needed."""

    def __init__(self, rules: TextRules) -> None:
        self._rules = rules
        self._filters: dict[str, profanity.ProfanityFilter] = {}

    def words(self, words: Sequence[Word], language: str | None) -> list[Word]:
        """``words`` as the caller reads them; several may become one number, with their times joined.

        Args:
            words: of one speaker or several, in order.
            language: BCP-47 tag of what was said; None where it is not known.

        Raises:
            RpcError: profanity is to be hidden, and there is no list of the language.
        """
        tag = "" if language is None else primary_tag(language)
        written = list(words)
        if self._rules.digits and tag in numbers.LANGUAGES:
            written = list(_in_digits(written, tag))
        if self._rules.mask:
            hide = self._filter(tag)
            written = [_with_core(word, hide.masked(_core(word.text))) for word in written]
        if not self._rules.punctuation:
            plain = (_with_text(word, _core(word.text).lower()) for word in written)
            written = [word for word in plain if word.text]
        return written

    def _filter(self, tag: str) -> profanity.ProfanityFilter:
        if tag not in self._filters:
            if not profanity.knows(tag):
                raise unable("profanity_filter", f"there is no word list for the language {tag or 'spoken'}.")
            self._filters[tag] = profanity.ProfanityFilter(tag)
        return self._filters[tag]


def _core(text: str) -> str:
    """``text`` without the punctuation around it; ``5%``, ``$5`` and ``C++`` are whole."""
    begin, end = 0, len(text)
    while begin < end and _is_punctuation(text[begin]):
        begin += 1
    while end > begin and _is_punctuation(text[end - 1]):
        end -= 1
    return text[begin:end]


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P") and character not in "%&@#*"


def _in_digits(words: Sequence[Word], language: str) -> Iterable[Word]:
    cores = [_core(word.text) for word in words]
    apart = [False] + [
        not before.text.endswith(_core(before.text))
        or not after.text.startswith(_core(after.text))
        or before.speaker != after.speaker
        or after.start - before.end > _PAUSE_S
        for before, after in pairwise(words)
    ]
    at = 0
    for number in numbers.find(cores, apart[: len(words)], language):
        yield from words[at : number.begin]
        spoken = words[number.begin : number.end]
        first, last = spoken[0], spoken[-1]
        head = first.text[: first.text.find(cores[number.begin])]
        tail = last.text[last.text.find(cores[number.end - 1]) + len(cores[number.end - 1]) :]
        yield first.model_copy(
            update={
                "text": f"{head}{number.text}{tail}",
                "end": last.end,
                "confidence": min(word.confidence for word in spoken),
            }
        )
        at = number.end
    yield from words[at:]


def _with_core(word: Word, core: str) -> Word:
    old = _core(word.text)
    return word if core == old else _with_text(word, word.text.replace(old, core, 1))


def _with_text(word: Word, text: str) -> Word:
    return word if text == word.text else word.model_copy(update={"text": text})
