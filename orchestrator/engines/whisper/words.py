"""From Whisper's tokens to words, with times that can be relied on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from orchestrator.engines.base import RecognizedWord

LONGEST_WORD_MS: Final = 3_000
"""A word that lasts longer has a pause in it: Whisper gives a word the silence next to it."""
_SPACE: Final = b" "


@dataclass(frozen=True, slots=True)
class TimedToken:
    """One text token: its UTF-8 bytes, which may be part of a letter, milliseconds, probability 0..1."""

    data: bytes
    start_ms: int
    end_ms: int
    probability: float


def grouped(tokens: Iterable[TimedToken], *, spaced: bool = True) -> Iterator[RecognizedWord]:
    """Words of ``tokens``: one begins with a space, or, not ``spaced``, with each whole letter; marks belong
    to the word before them. A word's confidence is its tokens' mean probability."""
    group: list[TimedToken] = []
    for token in tokens:
        if group and _begins(group, token, spaced=spaced):
            yield _word(group)
            group = []
        group.append(token)
    if group:
        yield _word(group)


def settled(words: Iterable[RecognizedWord], begin_ms: int, end_ms: int) -> tuple[RecognizedWord, ...]:
    """``words`` with sound times, from ``begin_ms`` to ``end_ms``: starts never go back, no word lasts into
    the next or longer than `LONGEST_WORD_MS`; words without text are left out, confidences are in 0..1."""
    result: list[RecognizedWord] = []
    least = begin_ms
    for word in words:
        text = " ".join(word.text.split())
        if not text:
            continue
        start = min(max(word.start_ms, least), end_ms)
        end = min(max(word.end_ms, start), start + LONGEST_WORD_MS, end_ms)
        if result and result[-1].end_ms > start:
            result[-1] = replace(result[-1], end_ms=start)
        share = _share(word.confidence)
        result.append(replace(word, text=text, start_ms=start, end_ms=end, confidence=share))
        least = start
    return tuple(result)


def moved(words: Iterable[RecognizedWord], by_ms: int) -> Iterator[RecognizedWord]:
    """``words`` later by ``by_ms``."""
    for word in words:
        yield replace(word, start_ms=word.start_ms + by_ms, end_ms=word.end_ms + by_ms)


def _begins(group: Sequence[TimedToken], token: TimedToken, *, spaced: bool) -> bool:
    """Whether ``token`` is the first of a word after ``group``."""
    if spaced or token.data.startswith(_SPACE):
        return token.data.startswith(_SPACE)
    try:
        b"".join(one.data for one in group).decode("utf-8")
    except UnicodeDecodeError:
        return False  # the rest of a letter
    text = token.data.decode("utf-8", errors="replace")
    # The replacement character stands for a part of a letter.
    return any(char.isalnum() or char == "\N{REPLACEMENT CHARACTER}" for char in text)


def _word(group: Sequence[TimedToken]) -> RecognizedWord:
    text = b"".join(token.data for token in group).decode("utf-8", errors="replace")
    mean = sum(token.probability for token in group) / len(group)
    return RecognizedWord(text.strip(), group[0].start_ms, group[-1].end_ms, _share(mean))


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0
