"""From the frames of tokens to the times of words; pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise
from typing import NamedTuple

from orchestrator.engines.alignment.base import AlignedWord, Alignment, Emissions, Reach
from orchestrator.engines.alignment.spelling import Speller
from orchestrator.engines.alignment.trellis import ANYTHING, Span


class Line(NamedTuple):
    """A text as tokens, and which of them each word has: ``[first, last)``, the same for neighbours that
    cannot be spelt, whose sound is one token."""

    tokens: list[int]
    words: list[tuple[int, int]]


def line(words: Sequence[str], speller: Speller) -> Line:
    """The tokens of ``words``, with the speller's separator between them."""
    tokens: list[int] = []
    places: list[tuple[int, int]] = []
    for word in words:
        spelt = speller.spell(word)
        if not spelt and tokens and tokens[-1] == ANYTHING:
            places.append(places[-1])
            continue
        if tokens and speller.separator is not None:
            tokens.append(speller.separator)
        places.append((len(tokens), len(tokens) + max(1, len(spelt))))
        tokens += spelt or (ANYTHING,)
    return Line(tokens, places)


def word_times(
    words: Sequence[str],
    text: Line,
    found: Sequence[Span],
    emissions: Emissions,
    reach: Reach,
    length_ms: int,
) -> Alignment:
    """When each of ``words`` was said.

    A word runs from ``reach.before_ms`` before its first token to ``reach.after_ms`` behind its last, and
    where two would overlap they share what is between their tokens in that proportion. Neighbours that could
    not be spelt share their sound by their letters.

    Args:
        words: as given to `line`.
        text: what that returned.
        found: the frames of ``text.tokens``.
        emissions: for the length of a frame.
        reach: of the model.
        length_ms: of the recording; no time is later.
    """
    groups = [
        (place, [word for _, word in group])
        for place, group in groupby(zip(text.words, words, strict=True), key=lambda pair: pair[0])
    ]
    cores = [
        (_at(found[first].start, emissions), _at(found[last - 1].end, emissions))
        for (first, last), _ in groups
    ]
    edges = _edges(cores, reach, length_ms)
    result: list[AlignedWord] = []
    for ((first, last), named), (start, end) in zip(groups, edges, strict=True):
        spelt = text.tokens[first] != ANYTHING
        mean = sum(span.probability for span in found[first:last]) / (last - first)
        confidence = min(max(mean, 0.0), 1.0) if spelt else 0.0
        letters = [0, *accumulate(max(1, sum(char.isalnum() for char in word)) for word in named)]
        marks = [round(start + (end - start) * done / letters[-1]) for done in letters]
        result += [AlignedWord(begin, stop, confidence, spelt) for begin, stop in pairwise(marks)]
    return tuple(result)


def _at(frame: int, emissions: Emissions) -> float:
    return emissions.first_ms + frame * emissions.frame_ms


def _edges(cores: Sequence[tuple[float, float]], reach: Reach, length_ms: int) -> list[tuple[int, int]]:
    """Starts and ends in whole milliseconds, in order and within the recording."""
    total = reach.before_ms + reach.after_ms
    starts = [start - reach.before_ms for start, _ in cores]
    ends = [end + reach.after_ms for _, end in cores]
    for before, (left, right) in enumerate(pairwise(cores)):
        if ends[before] > starts[before + 1]:
            share = reach.after_ms / total if total > 0 else 0.5
            ends[before] = starts[before + 1] = left[1] + (right[0] - left[1]) * share
    floor = 0
    edges: list[tuple[int, int]] = []
    for start, end in zip(starts, ends, strict=True):
        begin = min(max(round(start), floor), length_ms)
        stop = min(max(round(end), begin), length_ms)
        edges.append((begin, stop))
        floor = stop
    return edges
