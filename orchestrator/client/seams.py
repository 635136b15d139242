"""Join the words of overlapping windows so that no word is lost and none is doubled.

Both windows heard the overlap. Words near a window's end are unreliable there, because the cut may run
through a word or take away its context, so the join switches from the earlier window's words to the later
one's as near the middle of the overlap as the two agree. Where they agree is found by aligning the words by
text and time; where they agree on nothing, the switch is the moment that drops the fewest reliable words,
nearest the cut.

The alignment is Needleman and Wunsch's (J. Mol. Biol. 48, 1970) with no gap cost: a pair of equal words
weighs more the closer its times are, so that repeated words pair with themselves and not with a neighbour.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from orchestrator.engines.base import RecognizedWord

TOLERANCE_MS: Final = 400
"""How far apart two measured times of one word may be: recognisers differ by a few 80 ms frames."""
ESTIMATED_TOLERANCE_MS: Final = 1800
"""The same for words that were spread inside a line, whose times can be off by a second on either side."""
_SAME_SPAN: Final = 0.5
"""Least overlap (shared / joint time) at which two words of unlike text count as one word heard twice."""
_UNLIKE_WEIGHT: Final = 0.2
"""Weight of such a pair against 1 for equal text at equal times."""


@dataclass(frozen=True, slots=True)
class WindowWords:
    """What one window said, in the recording's own time.

    Attributes:
        words: in order.
        start_ms: where the window starts.
        end_ms: where it ends.
        cut_ms: where its own part begins (`windows.Window.cut`).
    """

    words: Sequence[RecognizedWord]
    start_ms: int
    end_ms: int
    cut_ms: int


def merge(windows: Sequence[WindowWords], *, times_estimated: bool = False) -> tuple[RecognizedWord, ...]:
    """The words of all ``windows`` (in order, neighbours overlapping) as one sequence.

    ``times_estimated`` widens how far apart two times of the same word may be. Starts never go back.
    """
    if not windows:
        return ()
    words = list(windows[0].words)
    for before, after in itertools.pairwise(windows):
        seam = _Seam(after.start_ms, before.end_ms, after.cut_ms, times_estimated)
        words = _join(words, after.words, seam)
    return _in_order(words)


@dataclass(frozen=True, slots=True)
class _Seam:
    """The overlap of two windows: from where the later starts to where the earlier ends."""

    start_ms: int
    end_ms: int
    cut_ms: int
    estimated: bool

    @property
    def tolerance_ms(self) -> int:
        return ESTIMATED_TOLERANCE_MS if self.estimated else TOLERANCE_MS

    @property
    def margin_ms(self) -> int:
        """How far from its window's end a word is reliable: the outer quarter of the overlap is not."""
        return (self.end_ms - self.start_ms) // 4


@dataclass(frozen=True, slots=True)
class _Pair:
    """A word that both windows heard: ``left`` and ``right`` count within the overlap's words."""

    left: int
    right: int


def _join(left: list[RecognizedWord], right: Sequence[RecognizedWord], seam: _Seam) -> list[RecognizedWord]:
    # Only words that may lie in the overlap take part; the rest of a long recording is not touched.
    first = len(left)
    while first and left[first - 1].end_ms > seam.start_ms - seam.tolerance_ms:
        first -= 1
    last = 0
    while last < len(right) and right[last].start_ms < seam.end_ms + seam.tolerance_ms:
        last += 1
    tail, head = left[first:], right[:last]
    keep, skip = _switch(tail, head, _align(tail, head, seam), seam)
    return [*left[:first], *tail[:keep], *head[skip:], *right[last:]]


def _align(tail: Sequence[RecognizedWord], head: Sequence[RecognizedWord], seam: _Seam) -> list[_Pair]:
    """The best order-keeping set of pairs of words that are the same word."""
    rows, columns = len(tail), len(head)
    left_texts, right_texts = [normalise(w.text) for w in tail], [normalise(w.text) for w in head]
    weights = [
        [
            _weight(tail[i], head[j], left_texts[i] == right_texts[j], seam) if left_texts[i] else 0.0
            for j in range(columns)
        ]
        for i in range(rows)
    ]
    best = [[0.0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            paired = weights[i][j] + best[i + 1][j + 1] if weights[i][j] > 0 else 0.0
            best[i][j] = max(best[i + 1][j], best[i][j + 1], paired)
    pairs: list[_Pair] = []
    i = j = 0
    while i < rows and j < columns:
        if weights[i][j] > 0 and best[i][j] == weights[i][j] + best[i + 1][j + 1]:
            pairs.append(_Pair(i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def _weight(left: RecognizedWord, right: RecognizedWord, same_text: bool, seam: _Seam) -> float:
    """How much speaks for two words being one, in 0..1; 0: they are not."""
    if same_text:
        apart = abs(_middle(left) - _middle(right))
        return max(0.0, 1.0 - apart / seam.tolerance_ms)
    if seam.estimated:
        return 0.0  # spread times say nothing about which word is which
    shared = min(left.end_ms, right.end_ms) - max(left.start_ms, right.start_ms)
    joint = max(left.end_ms, right.end_ms) - min(left.start_ms, right.start_ms)
    return _UNLIKE_WEIGHT * shared / joint if joint > 0 and shared / joint >= _SAME_SPAN else 0.0


def _switch(
    tail: Sequence[RecognizedWord], head: Sequence[RecognizedWord], pairs: Sequence[_Pair], seam: _Seam
) -> tuple[int, int]:
    """How many left words to keep and how many right ones to skip.

    The switch lies between two neighbouring pairs (or before the first, or behind the last), where words that
    only one window heard are divided at a moment: a word belongs to the side its middle is on. Of all such
    places the one that drops the fewest reliable words is taken, then the one nearest the cut.
    """
    left_lost = _counts_from_end(
        tail, {p.left for p in pairs}, lambda w: w.end_ms <= seam.end_ms - seam.margin_ms
    )
    right_lost = _counts_to_start(
        head, {p.right for p in pairs}, lambda w: w.start_ms >= seam.start_ms + seam.margin_ms
    )
    outer = [_Pair(-1, -1), *pairs, _Pair(len(tail), len(head))]
    places: list[tuple[int, int, int, int]] = []
    for before, after in itertools.pairwise(outer):
        mine = range(before.left + 1, after.left)
        theirs = range(before.right + 1, after.right)
        for moment in _moments(tail, head, before, after, seam):
            keep = mine.start + sum(_middle(tail[i]) < moment for i in mine)
            skip = theirs.start + sum(_middle(head[j]) < moment for j in theirs)
            places.append((left_lost[keep] + right_lost[skip], abs(moment - seam.cut_ms), keep, skip))
    _, _, keep, skip = min(places)
    return keep, skip


def _moments(
    tail: Sequence[RecognizedWord], head: Sequence[RecognizedWord], before: _Pair, after: _Pair, seam: _Seam
) -> list[int]:
    """Where the words between two pairs can be divided: at the cut, or on either side of each of them."""
    middles = [_middle(tail[i]) for i in range(before.left + 1, after.left)]
    middles += [_middle(head[j]) for j in range(before.right + 1, after.right)]
    nearest = seam.cut_ms  # moved between the pairs, if it lies elsewhere
    if after.left < len(tail):
        nearest = min(nearest, _place(tail, head, after))
    if before.left >= 0:
        nearest = max(nearest, _place(tail, head, before))
    return [nearest, *middles, *(middle + 1 for middle in middles)]


def _place(tail: Sequence[RecognizedWord], head: Sequence[RecognizedWord], pair: _Pair) -> int:
    return (_middle(tail[pair.left]) + _middle(head[pair.right])) // 2


def _counts_from_end(
    words: Sequence[RecognizedWord], paired: set[int], reliable: Callable[[RecognizedWord], bool]
) -> list[int]:
    """For each number kept from the start: how many reliable words without a partner drop out behind it."""
    counts = [0]
    for index in range(len(words) - 1, -1, -1):
        counts.append(counts[-1] + (index not in paired and reliable(words[index])))
    return counts[::-1]


def _counts_to_start(
    words: Sequence[RecognizedWord], paired: set[int], reliable: Callable[[RecognizedWord], bool]
) -> list[int]:
    """For each number skipped from the start: how many reliable words without a partner are among them."""
    return [0, *itertools.accumulate(i not in paired and reliable(word) for i, word in enumerate(words))]


def normalise(text: str) -> str:
    """``text`` as seams compare it: lower case, letters and digits only (``"Don't,"`` -> ``"dont"``).

    Combining marks stay, because scripts such as Kannada write vowels with them.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in folded if char.isalnum() or unicodedata.category(char).startswith("M"))


def _middle(word: RecognizedWord) -> int:
    return (word.start_ms + word.end_ms) // 2


def _in_order(words: Sequence[RecognizedWord]) -> tuple[RecognizedWord, ...]:
    """``words`` with starts that never go back: two windows' times of neighbours may differ a little."""
    ordered: list[RecognizedWord] = []
    latest = 0
    for word in words:
        if word.start_ms < latest:
            word = replace(word, start_ms=latest, end_ms=max(latest, word.end_ms))
        latest = word.start_ms
        ordered.append(word)
    return tuple(ordered)
