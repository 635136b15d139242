"""Word times for engines that have none: words are spread over the sound in which they were said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Final

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import RecognizedWord, Samples
from orchestrator.engines.speech_gate import FRAME, Piece, pieces

CONFIDENCE: Final = 0.5
"""Every word's confidence: neither sure nor unsure, as nothing measures it."""
_MARKS: Final = frozenset(".,?!;:\N{DEVANAGARI DANDA}")
_AT_MARK: Final = 0.3
"""A pause is this much nearer to a punctuation mark than it looks: speakers pause at them."""
_LONGEST_S: Final = 60.0
"""More than one request ever holds, so that its sound is one piece."""
_FRAME_MS: Final = 1000 * FRAME // SAMPLE_RATE_HZ


def spread(words: Sequence[str], piece: Piece) -> Iterator[RecognizedWord]:
    """Spread ``words`` over the sound of ``piece`` in proportion to their letters.

    First each pause takes its place between two words: where the share of the letters so far is nearest to
    the share of the sound so far, drawn towards a word that ends with a punctuation mark. Then the words
    between two pauses share the sound there. Letters and digits count, and at least one a word.
    """
    letters = [0, *accumulate(max(1, sum(char.isalnum() for char in word)) for word in words)]
    sound = [0, *accumulate(end - start for start, end in piece.runs)]
    first = 0
    for run, (start, end) in enumerate(piece.runs):
        due = letters[-1] * sound[run + 1] / sound[-1]
        last = len(words) if run + 1 == len(piece.runs) else _pause_after(words, letters, first, due)
        share = (end - start) / max(letters[last] - letters[first], 1)
        edges = [
            round((start + (done - letters[first]) * share) * _FRAME_MS) for done in letters[first : last + 1]
        ]
        for word, (start_ms, end_ms) in zip(words[first:last], pairwise(edges), strict=True):
            yield RecognizedWord(text=word, start_ms=start_ms, end_ms=end_ms, confidence=CONFIDENCE)
        first = last


def spread_over(
    words: Sequence[str], samples: Samples, begin_ms: int = 0, end_ms: int | None = None
) -> Iterator[RecognizedWord]:
    """Spread ``words`` over the sound between two times of ``samples``; over all of it where there is none.

    Args:
        words: what was said there.
        samples: float32 ``[n]`` at 16 kHz, at most a minute.
        begin_ms: from here on.
        end_ms: to here; None: to the end.
    """
    last_ms = len(samples) * 1000 // SAMPLE_RATE_HZ
    total = max(1, -(-len(samples) // FRAME))
    begin = min(begin_ms // _FRAME_MS, total - 1)
    end = total if end_ms is None else min(max(-(-end_ms // _FRAME_MS), begin + 1), total)
    sound = [run for piece in pieces(samples, max_s=_LONGEST_S, join_s=_LONGEST_S) for run in piece.runs]
    runs = [(max(start, begin), min(stop, end)) for start, stop in sound if start < end and stop > begin]
    for word in spread(words, Piece(tuple(runs or [(begin, end)]))) if words else ():
        yield replace(word, start_ms=min(word.start_ms, last_ms), end_ms=min(word.end_ms, last_ms))


def _pause_after(words: Sequence[str], letters: Sequence[int], first: int, due: float) -> int:
    """How many words come before a pause that is due after ``due`` letters, ``first`` at least."""

    def distance(count: int) -> float:
        away = abs(letters[count] - due)
        return away * _AT_MARK if count and words[count - 1][-1] in _MARKS else away

    return min(range(first, len(words) + 1), key=distance)
