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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

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

    The pairs divide the overlap into gaps, in which the windows disagree or say nothing; the switch lies in
    one of them. Of all places the one that drops the fewest reliable words is taken, then the one nearest
    the cut.
    """
    ends = [_Pair(-1, -1), *pairs, _Pair(len(tail), len(head))]
    gaps = [_Gap(tail, head, before, after, seam) for before, after in itertools.pairwise(ends)]
    lost_before = itertools.accumulate((gap.lost_if_left for gap in gaps), initial=0)
    lost_behind = [*itertools.accumulate((gap.lost_if_right for gap in reversed(gaps)), initial=0)][-2::-1]
    places = [
        _Place(before + place.lost + behind, place.distance_ms, place.keep, place.skip)
        for before, gap, behind in zip(lost_before, gaps, lost_behind, strict=False)
        for place in gap.places()
    ]
    best = min(places)
    return best.keep, best.skip


class _Place(NamedTuple):
    """A place to switch; the smallest is the best."""

    lost: int
    distance_ms: int
    keep: int
    skip: int


class _Gap:
    """What stands between two neighbouring pairs, or outside the first or last: words one window heard."""

    def __init__(
        self,
        tail: Sequence[RecognizedWord],
        head: Sequence[RecognizedWord],
        before: _Pair,
        after: _Pair,
        seam: _Seam,
    ) -> None:
        self._mine = [tail[i] for i in range(before.left + 1, after.left)]
        self._theirs = [head[j] for j in range(before.right + 1, after.right)]
        self._before, self._after = before, after
        self._inner = before.left >= 0 and after.left < len(tail)
        self._cut_ms = seam.cut_ms
        self._low = _heard_at(tail[before.left], head[before.right]) if before.left >= 0 else None
        self._high = _heard_at(tail[after.left], head[after.right]) if after.left < len(tail) else None
        self._left_bound = seam.end_ms - seam.margin_ms
        self._right_bound = seam.start_ms + seam.margin_ms
        left = sum(map(self._reliable_left, self._in_overlap(self._mine, seam)))
        right = sum(map(self._reliable_right, self._in_overlap(self._theirs, seam)))
        # Unlike words in one gap are two hearings of the same speech: only what one heard more of is lost.
        self.lost_if_left = max(0, right - left)
        self.lost_if_right = max(0, left - right)

    def places(self) -> Iterator[_Place]:
        """Where to switch in this gap."""
        if self._inner:
            # Taking both sides' words would say the same speech twice.
            high, low = self._distance(self._high), self._distance(self._low)
            if not self._mine and not self._theirs:
                high = low = self._distance(None)
            yield _Place(self.lost_if_left, high, self._after.left, self._after.right)
            yield _Place(self.lost_if_right, low, self._before.left + 1, self._before.right + 1)
            return
        # Beyond the last agreement only time says which words are the same: one belongs to the side its
        # middle is on.
        middles = [_middle(word) for word in (*self._mine, *self._theirs)]
        for moment in (self._nearest(), *middles, *(middle + 1 for middle in middles)):
            keep = sum(_middle(word) < moment for word in self._mine)
            skip = sum(_middle(word) < moment for word in self._theirs)
            lost = sum(map(self._reliable_left, self._mine[keep:]))
            lost += sum(map(self._reliable_right, self._theirs[:skip]))
            distance = abs(moment - self._cut_ms)
            yield _Place(lost, distance, self._before.left + 1 + keep, self._before.right + 1 + skip)

    def _nearest(self) -> int:
        """The cut, or the pair that is nearer to it where it lies outside the gap."""
        nearest = self._cut_ms if self._high is None else min(self._cut_ms, self._high)
        return nearest if self._low is None else max(nearest, self._low)

    def _distance(self, moment: int | None) -> int:
        return abs((self._nearest() if moment is None else moment) - self._cut_ms)

    def _reliable_left(self, word: RecognizedWord) -> bool:
        return word.end_ms <= self._left_bound

    def _reliable_right(self, word: RecognizedWord) -> bool:
        return word.start_ms >= self._right_bound

    @staticmethod
    def _in_overlap(words: Sequence[RecognizedWord], seam: _Seam) -> list[RecognizedWord]:
        """The other words cannot have been heard by both windows."""
        return [word for word in words if seam.start_ms <= _middle(word) <= seam.end_ms]


def _heard_at(left: RecognizedWord, right: RecognizedWord) -> int:
    return (_middle(left) + _middle(right)) // 2


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
