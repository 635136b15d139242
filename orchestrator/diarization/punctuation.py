"""Where speakers take turns in words whose times were estimated: changes of speaker move to punctuation.

Words that were spread over a line lie a word or two off, so a change of speaker found from their times cuts
through sentences. People mostly take turns where a sentence or clause ends, and recognisers write that down.
`move_changes` weighs both:

1. A change costs the speech it hands over, in ms, plus what the mark in front of its new place costs:
   nothing for a sentence end, `MarkRules.clause_ms` for a clause end, `MarkRules.reach_ms` for none. All
   changes together take the cheapest places; of equal ones, the earlier.
2. It moves only to a mark, at most `MarkRules.reach_ms` of speech and `MarkRules.max_words` words away.
   Without one there it stays.
3. The words that it hands over have no silent gap between them: across silence times are sure. A change that
   lies in a gap may leave it.
4. Changes keep their order and each speaker keeps at least a word between two changes: a turn of one word,
   such as "Yes." inside another's line, may move or grow, but never vanishes.
5. Changes to and from words without a speaker stay.

Speech is measured in the words' own durations, so longer pauses change nothing.

Cost: array passes over words and changes, then a loop over the changes' few possible places: linear.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NO_MARK: Final = 0
CLAUSE_END: Final = 1
SENTENCE_END: Final = 2

_SENTENCE_MARKS: Final = frozenset(".?!…。．？！｡؟۔।")
_CLAUSE_MARKS: Final = frozenset(",;:，、；：､،؛")
_NO_WAY: Final = 1 << 62
"""More than any sum of costs; to stay is always possible, so no path needs it."""
_CLOSING: Final = "\"'”’»)]}」』）】》"
"""Quotes and brackets that may follow a mark."""
_ABBREVIATION: Final = re.compile(r"(?!I\.$)(?:[^\W\d_]\.)+|(?:Mr|Mrs|Ms|Dr|Prof|St)\.")
"""Initials ("J.", "U.S.") and titles: their stop ends no sentence. "I." does: no other word is one letter and
often last."""


@dataclass(frozen=True, slots=True)
class MarkRules:
    """The bounds and prices of moving, in ms of speech.

    Both prices follow from one estimate. Word edges are off by 0.15 s in the median
    (`orchestrator.engines.moonshine`), which for a Laplace distribution is a scale of 0.15 / ln 2 = 0.22 s,
    so odds of x : 1 weigh 0.22 s times ln x. Assumed, not counted: of 100 changes of speaker 90 come after a
    sentence end, 7 after a clause end and 3 after no mark, while of ten words one ends a sentence, one a
    clause, and eight nothing. A place after a sentence end is then about ten times as likely as one after a
    clause end (0.5 s), and about 250 times as likely as one after no mark (1.2 s).
    """

    clause_ms: int = 500
    reach_ms: int = 1200
    max_words: int = 5
    """1.2 s of quick speech."""
    max_word_ms: int = 1000
    """A longer word counts as this long: it was left open over silence."""


DEFAULTS: Final = MarkRules()


def marks_after(texts: Iterable[str]) -> Ints:
    """`SENTENCE_END`, `CLAUSE_END` or `NO_MARK` for each word, ``[W]``: what its text ends with.

    Sentences end with ``. ? !`` and clauses with ``, ; :``, in their Latin, Chinese, Japanese, Arabic and
    Devanagari forms, before any closing quotes and brackets. The stop of initials and titles is no mark.
    """
    return np.array([_mark_after(text) for text in texts], dtype=np.int64)


def _mark_after(text: str) -> int:
    text = text.rstrip(_CLOSING)
    last = text[-1:]
    if last in _CLAUSE_MARKS:
        return CLAUSE_END
    if last in _SENTENCE_MARKS:
        return NO_MARK if last == "." and _ABBREVIATION.fullmatch(text) else SENTENCE_END
    return NO_MARK


def move_changes(
    speaker: Ints, duration: Ints, silent: Bools, marks: Ints, rules: MarkRules = DEFAULTS
) -> Ints:
    """The words' speakers after the changes have moved, by the rules of this module.

    Args:
        speaker: ``[W]``, negative for words without a speaker.
        duration: ``[W]`` ms, not negative; 0 counts as 1.
        silent: ``[W]``, True where a silent gap lies before the word.
        marks: ``[W]``, from `marks_after`.
        rules: the bounds.
    """
    changes = np.flatnonzero(np.diff(speaker)) + 1
    if changes.size == 0:
        return speaker
    # A change at b lies before word b, so the mark of word b - 1 is the one in front of it.
    steps = np.arange(-rules.max_words, rules.max_words + 1)
    at = changes[:, None] + steps
    inside = (at >= 1) & (at < speaker.size)
    at = np.clip(at, 1, speaker.size - 1)
    spoken = np.concatenate(([0], np.cumsum(np.clip(duration, 1, rules.max_word_ms))))
    handed = np.abs(spoken[at] - spoken[changes][:, None])
    gaps = np.concatenate(([0], np.cumsum(silent)))  # gaps before words 0..i-1
    crossed = np.where(
        steps < 0,
        gaps[changes][:, None] - gaps[np.minimum(at + 1, changes[:, None])],
        gaps[at] - gaps[np.minimum(changes[:, None] + 1, at)],
    )
    named = (speaker[changes - 1] >= 0) & (speaker[changes] >= 0)
    # No mark, or out of reach: dearer than to stay, so never taken; left out, the paths below are few.
    moves = inside & named[:, None] & (crossed == 0) & (marks[at - 1] != NO_MARK) & (handed <= rules.reach_ms)
    moves[:, rules.max_words] = True  # to stay is always possible
    price = np.array([rules.reach_ms, rules.clause_ms, 0])
    row, column = np.nonzero(moves)
    first = np.searchsorted(row, np.arange(changes.size + 1))
    place = _cheapest(at[row, column].tolist(), (handed + price[marks[at - 1]])[row, column].tolist(), first)
    lengths = np.diff(place, prepend=0, append=speaker.size)
    return np.repeat(speaker[np.concatenate(([0], changes))], lengths)


def _cheapest(place: list[int], cost: list[int], first: Ints) -> list[int]:
    """One place for each change, rising, at the least total cost; change k has ``first[k]:first[k + 1]``.

    A shortest path (Viterbi): the best way to each place from those before it of the previous change.
    """
    total = list(cost)
    back = [0] * len(place)
    bounds = first.tolist()
    for (before, begin), (_, end) in pairwise(pairwise(bounds)):
        for here in range(begin, end):
            ways = [way for way in range(before, begin) if place[way] < place[here]]
            if ways:
                back[here] = min(ways, key=total.__getitem__)
                total[here] += total[back[here]]
            else:  # so far to the left that all places of the change before lie behind it
                total[here] = _NO_WAY
    chosen = min(range(bounds[-2], bounds[-1]), key=total.__getitem__)
    path = []
    for _ in range(len(bounds) - 1):
        path.append(place[chosen])
        chosen = back[chosen]
    return path[::-1]
