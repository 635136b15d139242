"""The array core of stitching: which speaker said each word, on whole milliseconds, numpy only.

Rules, in this order:

1. A word takes the speaker whose exclusive turns cover most of it. Equal cover: the speaker whose turn came
   first. A word without duration counts as 1 ms.
2. Recognisers let a word's end run on over a pause. Once the first turn a word touches has ended and is
   followed by `LabelRules.silence_ms` without a turn, the rest of the word is no evidence.
3. A word that no turn covers takes the speaker of the nearest turn *edge*, at most `LabelRules.max_gap_ms`
   away, where a long word is taken to end `LabelRules.max_gap_word_ms` after its start. Equal distance: the
   earlier turn. Farther away it has no speaker, `NO_SPEAKER`.
4. A single word of one speaker between words of one other speaker is given to the other, if it also touches
   the other's turn (or both are within reach of a gap word) and led by no more than
   `LabelRules.island_lead_ms`. Words beside other such single words stay as they are.
5. Only with marks, which are for words whose times were estimated: changes of speaker move to punctuation
   nearby, by the rules of `orchestrator.diarization.punctuation`. There a silent gap is a stretch that
   neither words nor exclusive turns touch.

Cost: two binary searches a word and a handful of passes, so in practice linear in words + turns as long as
words do not cover one another wholesale. Marks add a loop over the changes of speaker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.diarization.punctuation import Bools, Ints, move_changes

Floats = NDArray[np.float64]

NO_SPEAKER: Final = -1
"""The label of a word without a speaker."""

SILENT_SHARE: Final = 0.5
"""What silence inside or around a word counts towards its speaker confidence: neither for nor against."""

MOVED_CONFIDENCE: Final = 0.5
"""The speaker confidence of a word that a change moved over: the mark speaks for its speaker, the times for
the other."""


@dataclass(frozen=True, slots=True)
class LabelRules:
    """The bounds of the rules, in milliseconds."""

    max_gap_ms: int = 1000
    """How far from a turn's edge a word may lie and still belong to it: diarizers clip the soft beginnings
    and ends of turns by tenths of a second; beyond a second the word is more likely missed speech."""
    max_gap_word_ms: int = 1000
    """How long a word outside all turns is taken to be: longer ones are ends left open over silence."""
    silence_ms: int = 500
    """A hole between turns that ends a word's evidence: longer than the closure inside any word."""
    island_lead_ms: int = 80
    """The lead that smoothing overrules: one output frame of the recogniser, the resolution of its times."""


MEASURED: Final = LabelRules()
"""For words whose times were measured."""

ESTIMATED: Final = LabelRules(island_lead_ms=300)
"""For words whose times were spread inside a longer line: each is off by a word or so, about 0.3 s."""


@dataclass(frozen=True, slots=True)
class TurnArrays:
    """Turns as arrays ``[N]``: start and end in ms, and a speaker index from 0."""

    start: Ints
    end: Ints
    speaker: Ints


@dataclass(frozen=True, slots=True)
class Labels:
    """The answer for W words.

    Attributes:
        speaker: ``[W]``, a speaker index or `NO_SPEAKER`.
        confidence: ``[W]`` in 0..1. For a covered word: the share of it under its speaker, silence counting
            half. For a gap word: from a half at the edge down to 0 at the bound. For a word that a change of
            speaker moved over: `MOVED_CONFIDENCE`. 0 without a speaker.
        overlap: ``[W]``, True where two or more speakers talk at the same time during the word.
    """

    speaker: Ints
    confidence: Floats
    overlap: Bools


@dataclass(slots=True)
class _Evidence:
    """For each word: its label, how much of it that label covers, and how far away the label's edge is."""

    speaker: Ints
    cover: Ints
    """Under the label's turns, ms."""
    any_cover: Ints
    """Under any turn, ms."""
    duration: Ints
    """Of the part of the word that counts, ms."""
    distance: Ints
    """To the label's edge, ms; 0 for covered words."""


def label_arrays(
    word_start: Ints,
    word_end: Ints,
    exclusive: TurnArrays,
    turns: TurnArrays,
    rules: LabelRules = MEASURED,
    marks: Ints | None = None,
) -> Labels:
    """Label W words, given as int64 ``[W]`` milliseconds in reading order, by the rules of this module.

    Args:
        word_start: non-negative; need not be sorted.
        word_end: not before ``word_start``.
        exclusive: turns of which at most one is active at a time, in any order. Where two overlap all the
            same (rounding), the earlier one keeps the time. Empty ones are dropped.
        turns: the full turns, which may overlap; they only decide `Labels.overlap`.
        rules: the bounds.
        marks: ``[W]``, what each word ends with (`punctuation.marks_after`); None: changes stay.
    """
    end = np.maximum(word_end, word_start + 1)
    overlap = _in_regions(word_start, end, _overlap_regions(turns))
    flat = _disjoint(exclusive)
    if flat.start.size == 0 or word_start.size == 0:
        none = np.full(word_start.size, NO_SPEAKER, dtype=np.int64)
        return Labels(none, np.zeros(word_start.size), overlap)

    first = np.searchsorted(flat.end, word_start, side="right")
    count = np.searchsorted(flat.start, end, side="left") - first  # turns touched; never negative
    evidence = _single(word_start, end, first, flat)
    several = np.flatnonzero(count > 1)
    cover = _CoverTable(word_start[several], end[several], first[several], count[several], flat, rules)
    cover.write_winners(evidence, several)
    _stop_at_silence(evidence, word_start, end, count, first, several, cover.kept, flat, rules)
    gap = np.flatnonzero(count == 0)
    edges = _Edges(word_start[gap], end[gap], first[gap], flat, rules)
    edges.write_nearest(evidence, gap)
    _smooth_islands(evidence, several, cover, gap, edges, rules)
    confidence = _confidence(evidence, rules)
    if marks is None:
        return Labels(evidence.speaker, confidence, overlap)
    silent = _silent_before(word_start, word_end, flat)
    speaker = move_changes(evidence.speaker, end - word_start, silent, marks)
    confidence[speaker != evidence.speaker] = MOVED_CONFIDENCE
    return Labels(speaker, confidence, overlap)


def _disjoint(turns: TurnArrays) -> TurnArrays:
    """Sort by time, trim what an earlier turn already holds, drop what is then empty."""
    order = np.lexsort((turns.speaker, turns.end, turns.start))
    start, end, speaker = turns.start[order], turns.end[order], turns.speaker[order]
    if start.size > 1:
        held = np.maximum.accumulate(end)[:-1]
        start = np.concatenate((start[:1], np.maximum(start[1:], held)))
    keep = start < end
    return TurnArrays(start[keep], end[keep], speaker[keep])


def _single(word_start: Ints, end: Ints, first: Ints, turns: TurnArrays) -> _Evidence:
    """The evidence as if every word touched exactly its first turn."""
    turn = np.minimum(first, turns.start.size - 1)
    cover = np.minimum(end, turns.end[turn]) - np.maximum(word_start, turns.start[turn])
    return _Evidence(
        speaker=turns.speaker[turn],
        cover=cover,
        any_cover=cover.copy(),
        duration=end - word_start,
        distance=np.zeros_like(cover),
    )


class _CoverTable:
    """How much each speaker covers of each word that touches several turns."""

    def __init__(
        self, start: Ints, end: Ints, first: Ints, count: Ints, turns: TurnArrays, rules: LabelRules
    ) -> None:
        # One row per (word, turn) pair, words in order and turns in order within a word.
        offset = np.cumsum(count) - count
        word = np.repeat(np.arange(count.size), count)
        turn = np.arange(word.size) - np.repeat(offset - first, count)
        covered = np.minimum(end[word], turns.end[turn]) - np.maximum(start[word], turns.start[turn])

        # A long hole before a turn ends the word's evidence: that pair and the word's later ones fall out.
        hole = np.zeros(turns.start.size, dtype=np.int64)
        hole[1:] = turns.start[1:] - turns.end[:-1] >= rules.silence_ms
        holes = np.cumsum(hole)
        kept = holes[turn] == holes[first][word]
        word, turn, covered = word[kept], turn[kept], covered[kept]
        self.kept: Ints = np.bincount(word, minlength=count.size).astype(np.int64)
        """Turns that count, for each word."""

        # Sum by (word, speaker); the stable sort keeps the earliest turn first in its group.
        self._speakers = int(turns.speaker.max()) + 1
        key = word * self._speakers + turns.speaker[turn]
        order = np.argsort(key, kind="stable")
        sorted_key = key[order]
        begins = np.flatnonzero(np.diff(sorted_key, prepend=-1))
        self._key = sorted_key[begins]
        self._sum = np.add.reduceat(covered[order], begins) if begins.size else covered
        self._earliest = order[begins]

    def write_winners(self, evidence: _Evidence, words: Ints) -> None:
        """Set speaker and cover of ``words`` to the speaker with the most cover."""
        word = self._key // self._speakers
        ranked = np.lexsort((self._earliest, -self._sum, word))
        best = ranked[np.flatnonzero(np.diff(word[ranked], prepend=-1))]
        evidence.speaker[words] = self._key[best] % self._speakers
        evidence.cover[words] = self._sum[best]
        evidence.any_cover[words] = np.bincount(word, weights=self._sum, minlength=words.size)

    def of(self, rows: Ints, speaker: Ints) -> Ints:
        """The cover of the table's words ``rows`` by ``speaker``, 0 where there is none."""
        key = rows * self._speakers + speaker
        at = np.minimum(np.searchsorted(self._key, key), self._key.size - 1)
        return np.where(self._key[at] == key, self._sum[at], 0)


def _stop_at_silence(
    evidence: _Evidence,
    start: Ints,
    end: Ints,
    count: Ints,
    first: Ints,
    several: Ints,
    kept: Ints,
    turns: TurnArrays,
    rules: LabelRules,
) -> None:
    """Take the silence that a word's end was left open over off its duration."""
    last = np.minimum(first, turns.end.size - 1)
    last[several] += kept - 1
    stop = turns.end[last]
    open_end = (count > 0) & (end - stop >= rules.silence_ms)
    evidence.duration[open_end] = (stop - start)[open_end]


class _Edges:
    """The turn edges on both sides of words that no turn covers."""

    def __init__(self, start: Ints, end: Ints, after: Ints, turns: TurnArrays, rules: LabelRules) -> None:
        end = np.minimum(end, start + rules.max_gap_word_ms)
        far = rules.max_gap_ms + 1
        has_before, has_after = after > 0, after < turns.start.size
        before = np.maximum(after - 1, 0)
        after = np.minimum(after, turns.start.size - 1)
        self.before_speaker = turns.speaker[before]
        self.after_speaker = turns.speaker[after]
        self.before = np.where(has_before, start - turns.end[before], far)
        self.after = np.where(has_after, turns.start[after] - end, far)
        self._rules = rules

    def write_nearest(self, evidence: _Evidence, words: Ints) -> None:
        """Set speaker and distance of ``words`` from the nearer edge, if one is near enough."""
        earlier = self.before <= self.after
        distance = np.minimum(self.before, self.after)
        speaker = np.where(earlier, self.before_speaker, self.after_speaker)
        evidence.speaker[words] = np.where(distance <= self._rules.max_gap_ms, speaker, NO_SPEAKER)
        evidence.distance[words] = distance
        evidence.cover[words] = 0
        evidence.any_cover[words] = 0

    def of(self, rows: Ints, speaker: Ints) -> Ints:
        """The distance of the words ``rows`` to the nearest edge of ``speaker``, out of reach if none."""
        far = self._rules.max_gap_ms + 1
        before = np.where(self.before_speaker[rows] == speaker, self.before[rows], far)
        after = np.where(self.after_speaker[rows] == speaker, self.after[rows], far)
        return np.minimum(before, after)


def _smooth_islands(
    evidence: _Evidence, several: Ints, cover: _CoverTable, gap: Ints, edges: _Edges, rules: LabelRules
) -> None:
    speaker = evidence.speaker
    island = np.zeros(speaker.size, dtype=np.bool_)
    around = speaker[:-2]
    island[1:-1] = (around == speaker[2:]) & (around != speaker[1:-1]) & (around >= 0) & (speaker[1:-1] >= 0)
    lonely = island.copy()
    lonely[1:] &= ~island[:-1]
    lonely[:-1] &= ~island[1:]

    rows = np.flatnonzero(lonely[several])
    words = several[rows]
    rival = speaker[words - 1]
    rival_cover = cover.of(rows, rival)
    give = (rival_cover > 0) & (evidence.cover[words] - rival_cover <= rules.island_lead_ms)
    from_cover = (words[give], rival[give], rival_cover[give])

    rows = np.flatnonzero(lonely[gap])
    words = gap[rows]
    rival = speaker[words - 1]
    rival_distance = edges.of(rows, rival)
    give = (rival_distance <= rules.max_gap_ms) & (
        rival_distance - evidence.distance[words] <= rules.island_lead_ms
    )
    # Both kinds were decided on the same labels; only now are they changed.
    speaker[from_cover[0]] = from_cover[1]
    evidence.cover[from_cover[0]] = from_cover[2]
    speaker[words[give]] = rival[give]
    evidence.distance[words[give]] = rival_distance[give]


def _confidence(evidence: _Evidence, rules: LabelRules) -> Floats:
    duration = np.maximum(evidence.duration, 1)
    silent = np.maximum(duration - evidence.any_cover, 0)
    share = (evidence.cover + SILENT_SHARE * silent) / duration
    nearness = 1.0 - evidence.distance / (rules.max_gap_ms + 1)
    share = share * np.clip(nearness, 0.0, 1.0)
    return np.where(evidence.speaker >= 0, np.clip(share, 0.0, 1.0), 0.0)


def _silent_before(word_start: Ints, word_end: Ints, turns: TurnArrays) -> Bools:
    """True where some time between a word and all words before it lies in no turn."""
    since = np.concatenate((word_start[:1], np.maximum.accumulate(word_end)[:-1]))
    length = turns.end - turns.start
    held = np.concatenate(([0], np.cumsum(length)))

    def turn_time(until: Ints) -> Ints:
        """All turns' time before ``until``."""
        turn = np.searchsorted(turns.start, until, side="right") - 1
        return np.where(turn < 0, 0, held[turn] + np.minimum(until - turns.start[turn], length[turn]))

    silent: Bools = turn_time(word_start) - turn_time(since) < word_start - since
    return silent & (since < word_start)


def _overlap_regions(turns: TurnArrays) -> tuple[Ints, Ints]:
    """Starts and ends, sorted and disjoint, of where at least two speakers are active."""
    keep = turns.end > turns.start
    start, end, speaker = turns.start[keep], turns.end[keep], turns.speaker[keep]
    if start.size < 2:
        return start[:0], start[:0]
    # A speaker's own turns may overlap: merge them first. Lifting each speaker onto a stretch of time of its
    # own lets one running maximum serve all speakers.
    lift = (speaker - speaker.min()) * (int(end.max()) + 1)
    order = np.lexsort((start, speaker))
    start, end, lift = start[order] + lift[order], end[order] + lift[order], lift[order]
    reach = np.maximum.accumulate(end)
    fresh = np.concatenate(([True], start[1:] > reach[:-1]))
    closing = np.concatenate((fresh[1:], [True]))
    start, end = (start - lift)[fresh], (reach - lift)[closing]

    at = np.concatenate((end, start))
    step = np.concatenate((np.full(end.size, -1), np.ones(start.size, dtype=np.int64)))
    order = np.argsort(at, kind="stable")  # ends come before starts at the same time
    active = np.cumsum(step[order])
    at = at[order]
    several = active >= 2
    opens = several & ~np.concatenate(([False], several[:-1]))
    closes = ~several & np.concatenate(([False], several[:-1]))
    return at[opens], at[closes]


def _in_regions(start: Ints, end: Ints, regions: tuple[Ints, Ints]) -> Bools:
    region_start, region_end = regions
    if region_start.size == 0:
        return np.zeros(start.size, dtype=np.bool_)
    first = np.searchsorted(region_end, start, side="right")
    at = np.minimum(first, region_start.size - 1)
    return (first < region_start.size) & (region_start[at] < end)
