"""From decoded tokens to words with times and confidences: numpy only, no torch, no NeMo.

Times are encoder frames until the very end, and follow NeMo 3.0's rules so that words equal those of its
``transcribe(timestamps=True)``:

=========  ========================================  ===========================
decoder    a token starts at                         and ends at
=========  ========================================  ===========================
TDT        the frame that emitted it                 start + predicted duration
RNN-T      the frame that emitted it                 start + 1
CTC        the first frame of the token before it,   its own first frame
           or one frame before its own for the
           first token of a recording
=========  ========================================  ===========================

A punctuation mark says little about time (it may be emitted long after the word, in the silence), so NeMo
gives it no length: with TDT it stands at the end of the token before it, with CTC it ends where it starts.
A word runs from the start of its first token to the end of its last one.

Words are what white space separates in the decoded text, where a space before a punctuation mark of the
vocabulary is removed first (also NeMo's rule). NeMo derives its word list and its text in two ways that can
differ where a mark opens a word (``all 'em``: one word in the text, two in the list); here the text decides.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.engines.base import RecognizedWord

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

_SPACE: Final = "\u2581"
"""SentencePiece's sign for a space inside a piece."""
_UNKNOWN: Final = " \u2047 "
"""What SentencePiece decodes an unknown piece to."""
_APART: Final = "\n\n"
"""Between two recordings' texts: no word reaches across it, not even one that goes on with a mark."""
_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary:
    """What each token id adds to the text.

    Args:
        pieces: SentencePiece pieces, ``[V]``, by id, without the blank.
        marks: punctuation characters that take no space before them and no time.
        unknown: ids of unknown pieces.
        control: ids that add nothing to the text.
    """

    def __init__(
        self,
        pieces: Sequence[str],
        *,
        marks: Collection[str] = (),
        unknown: Collection[int] = (),
        control: Collection[int] = (),
    ) -> None:
        surfaces = [piece.replace(_SPACE, " ") for piece in pieces]
        for token in unknown:
            surfaces[token] = _UNKNOWN
        for token in control:
            surfaces[token] = ""
        self._surfaces = surfaces
        self._bytes = {
            token: int(match[1], 16)
            for token, piece in enumerate(pieces)
            if token not in unknown and (match := _BYTE.fullmatch(piece))
        }
        bare = [surface.removeprefix(" ") for surface in surfaces]
        self.is_mark: Flags = np.array([text in marks for text in bare], dtype=np.bool_)
        """``[V]``: the token is one punctuation mark."""
        self.opens_with_mark: Flags = np.array([text[:1] in marks for text in bare], dtype=np.bool_)
        """``[V]``: the token's first character is a punctuation mark."""
        self.is_byte: Flags = np.zeros(len(surfaces), dtype=np.bool_)
        """``[V]``: the token is one byte of a character."""
        self.is_byte[list(self._bytes)] = True
        self._word = re.compile(_word_pattern(marks))

    def __len__(self) -> int:
        return len(self._surfaces)

    def surfaces(self, ids: Sequence[int]) -> list[str]:
        """What each of ``ids`` adds to the text; joined they are the text.

        A run of byte pieces is decoded as UTF-8 and stands at the run's first id.
        """
        if not self._bytes or self._bytes.keys().isdisjoint(ids):
            return [self._surfaces[token] for token in ids]
        surfaces: list[str] = []
        run = bytearray()
        run_start = 0
        for token in ids:
            if token in self._bytes:
                if not run:
                    run_start = len(surfaces)
                run.append(self._bytes[token])
                surfaces.append("")
                continue
            if run:
                surfaces[run_start] = run.decode("utf-8", errors="replace")
                run.clear()
            surfaces.append(self._surfaces[token])
        if run:
            surfaces[run_start] = run.decode("utf-8", errors="replace")
        return surfaces

    def word_spans(self, text: str) -> list[tuple[int, int]]:
        """Where the words of ``text`` are, as half-open character ranges."""
        return [match.span() for match in self._word.finditer(text)]


def _word_pattern(marks: Collection[str]) -> str:
    """A run of characters, and further runs that open with a mark after a single space."""
    if not marks:
        return r"\S+"
    return rf"\S+(?:\s(?=[{''.join(map(re.escape, sorted(marks)))}])\S+)*"


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Decoded tokens of ``B`` recordings, one after another in flat arrays of ``N`` tokens.

    Attributes:
        counts: ``[B]`` tokens per recording; their sum is ``N``.
        ids: ``[N]`` rows of the vocabulary.
        start: ``[N]`` encoder frames.
        end: ``[N]`` encoder frames, not before ``start``.
        confidence: ``[N]`` in 0..1.
    """

    counts: Ints
    ids: Ints
    start: Ints
    end: Ints
    confidence: Floats

    def rows(self) -> Iterator[slice]:
        """The part of the flat arrays that belongs to each recording."""
        stops = np.cumsum(self.counts)
        for stop, count in zip(stops.tolist(), self.counts.tolist(), strict=True):
            yield slice(stop - count, stop)


def first_of_recording(counts: Ints) -> Flags:
    """``[N]``: which flat tokens open a recording, for ``[B]`` counts."""
    first = np.zeros(int(counts.sum()), dtype=np.bool_)
    opens = np.cumsum(counts) - counts
    first[opens[counts > 0]] = True
    return first


def transducer_tokens(
    counts: Ints,
    ids: Ints,
    frames: Ints,
    durations: Ints | None,
    confidence: Floats,
    vocabulary: Vocabulary,
) -> TokenBatch:
    """Tokens of a TDT (with ``durations``) or RNN-T (None) decoder; flat arrays as in `TokenBatch`."""
    if durations is None:
        return TokenBatch(counts, ids, frames, frames + 1, confidence)
    ends = frames + durations
    # A mark takes the end of the last token before it that is not one; the first token keeps its own.
    moved = vocabulary.is_mark[ids] & ~first_of_recording(counts)
    anchor = np.maximum.accumulate(np.where(moved, 0, np.arange(ids.size)))
    return TokenBatch(counts, ids, np.where(moved, ends[anchor], frames), ends[anchor], confidence)


def ctc_tokens(
    labels: Ints, confidence: Floats, lengths: Ints, blank: int, vocabulary: Vocabulary
) -> TokenBatch:
    """Tokens of a greedy CTC decoder: equal neighbours are one token, blanks separate.

    Args:
        labels: ``[B, T]`` the best label of each frame.
        confidence: ``[B, T]`` of that label, in 0..1; a token's is the mean over its frames.
        lengths: ``[B]`` valid frames.
        blank: the blank's label.
        vocabulary: for the times of punctuation marks.
    """
    rows, width = labels.shape
    labels = np.where(np.arange(width) < lengths[:, None], labels, blank)
    before = np.concatenate([np.full((rows, 1), blank), labels[:, :-1]], axis=1)
    spoken = labels != blank
    fresh = spoken & (labels != before)
    counts = fresh.sum(axis=1).astype(np.int64)
    frames = np.nonzero(fresh)[1].astype(np.int64)
    ids = labels[fresh]
    if not ids.size:
        return TokenBatch(counts, ids, frames, frames, np.zeros(0, dtype=np.float32))
    # In the spoken frames, in order, each fresh one opens its token's run.
    opens = np.flatnonzero(fresh[spoken])
    sizes = np.diff(np.append(opens, int(spoken.sum())))
    mean = np.add.reduceat(confidence[spoken].astype(np.float64), opens) / sizes

    first = first_of_recording(counts)
    start = np.where(first, np.maximum(frames - 1, 0), np.roll(frames, 1))
    end = np.where(vocabulary.opens_with_mark[ids] & ~first, start, frames)
    return TokenBatch(counts, ids, start, end, mean.astype(np.float32))


def words(tokens: TokenBatch, vocabulary: Vocabulary, frame_ms: float) -> list[tuple[RecognizedWord, ...]]:
    """The words of each recording.

    All recordings are treated as one text, in one pass: this runs while the device waits for its next batch.

    Args:
        tokens: what the decoder found.
        vocabulary: the tokens' text.
        frame_ms: milliseconds per encoder frame: the features' stride times the encoder's subsampling.

    Returns:
        ``B`` tuples of words. A word's confidence is the mean of its tokens'.
    """
    rows = len(tokens.counts)
    surfaces = _surfaces(tokens, vocabulary)
    text = _APART.join("".join(surfaces[row]) for row in tokens.rows())
    spans = vocabulary.word_spans(text)
    if not spans:
        return [()] * rows
    row, first, last = _tokens_of(spans, tokens.counts, surfaces)
    # Marks and tokens that share a frame cannot turn time back, so these two keep the contract for any input;
    # recordings are set apart, so that one's times do not hold up the next one's.
    start = tokens.start[first]
    apart = row * (start.max() - start.min() + 1)
    start = np.maximum.accumulate(start + apart) - apart
    end = np.maximum(tokens.end[last], start)
    sums = np.add.reduceat(
        np.append(tokens.confidence, 0.0).astype(np.float64), np.stack((first, last + 1), axis=1).ravel()
    )[::2]
    mean = np.clip(sums / (last + 1 - first), 0.0, 1.0)
    found = list(
        map(
            RecognizedWord,
            ["".join(text[a:b].split()) for a, b in spans],
            np.rint(start * frame_ms).astype(np.int64).tolist(),
            np.rint(end * frame_ms).astype(np.int64).tolist(),
            mean.tolist(),
        )
    )
    stops = np.cumsum(np.bincount(row, minlength=rows)).tolist()
    return [tuple(found[a:b]) for a, b in itertools.pairwise([0, *stops])]


def _surfaces(tokens: TokenBatch, vocabulary: Vocabulary) -> list[str]:
    """`Vocabulary.surfaces` of all tokens; runs of bytes end with their recording."""
    if vocabulary.is_byte[tokens.ids].any():
        return [text for row in tokens.rows() for text in vocabulary.surfaces(tokens.ids[row].tolist())]
    return vocabulary.surfaces(tokens.ids.tolist())


def _tokens_of(
    spans: Sequence[tuple[int, int]], counts: Ints, surfaces: Sequence[str]
) -> tuple[Ints, Ints, Ints]:
    """The recording, the first and the last token of each word of a text whose recordings are `_APART`."""
    rows = np.arange(len(counts))
    lengths = np.fromiter(map(len, surfaces), dtype=np.int64, count=len(surfaces))
    row_of_token = np.repeat(rows, counts)
    # Token i covers the characters up to token_stop[i].
    token_stop = np.cumsum(lengths) + len(_APART) * row_of_token
    begin, stop = np.array(spans, dtype=np.int64).T
    last = np.searchsorted(token_stop, stop - 1, side="right")
    row = row_of_token[last]
    row_begin = np.append(0, np.cumsum(lengths))[np.cumsum(counts) - counts] + len(_APART) * rows
    # A word owns the space before it: a piece that is only a space starts the word after it.
    first = np.searchsorted(token_stop, np.maximum(begin - 1, row_begin[row]), side="right")
    inside = np.searchsorted(token_stop, begin, side="right")
    first[1:] = np.where(first[1:] <= last[:-1], inside[1:], first[1:])
    return row, first, last
