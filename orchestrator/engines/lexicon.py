"""Words and times of a few tokens at a time, by the rules of `nemo_words`: plain Python, for live streams.

A stream brings some tokens several times a second, for which arrays cost more than they save.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal, NamedTuple

from orchestrator.engines.base import RecognizedWord
from orchestrator.engines.nemo_words import Vocabulary

Token = tuple[int, int, int, float]
"""Id, encoder frame from the start of the stream, frames it lasts, confidence in 0..1."""


class Timed(NamedTuple):
    """A token with its time by the decoder's rule, in encoder frames."""

    id: int
    start: int
    end: int
    confidence: float


class Lexicon:
    """What all streams of one model share: the vocabulary as plain lists, and the decoder's rule of times."""

    def __init__(self, vocabulary: Vocabulary, decoder: Literal["tdt", "rnnt", "ctc"], frame_ms: int) -> None:
        """Take the model's vocabulary.

        Args:
            vocabulary: of the model.
            decoder: which rule of `nemo_words` gives tokens their times.
            frame_ms: length of an encoder frame.
        """
        self.vocabulary = vocabulary
        self.decoder = decoder
        self.frame_ms = frame_ms
        self.is_mark: list[bool] = vocabulary.is_mark.tolist()
        self._opens_with_mark: list[bool] = vocabulary.opens_with_mark.tolist()
        alone = [vocabulary.surfaces([token]) for token in range(len(vocabulary))]
        self.opens_word = [surface[0].startswith(" ") for surface in alone]
        self.is_byte: list[bool] = vocabulary.is_byte.tolist()

    def timed(self, tokens: Sequence[Token], before: int | None) -> tuple[list[Timed], int | None]:
        """Give tokens their times.

        Args:
            tokens: in order.
            before: what the call for the tokens before them returned, None at the start of a stream.

        Returns:
            The tokens and what the next call needs: the end of the last token that is no mark (TDT), or the
            frame of the last token (CTC).
        """
        found: list[Timed] = []
        for token, frame, lasts, confidence in tokens:
            start, end = frame, frame + 1
            if self.decoder == "tdt":
                if self.is_mark[token] and before is not None:
                    start = end = before
                else:
                    before = end = frame + lasts
            elif self.decoder == "ctc":
                start = max(frame - 1, 0) if before is None else before
                end = start if self._opens_with_mark[token] and before is not None else frame
                before = frame
            found.append(Timed(token, start, end, confidence))
        return found, before

    def words(self, tokens: Sequence[Timed], floor: int) -> tuple[list[RecognizedWord], list[int], list[int]]:
        """The words of ``tokens``, as `nemo_words.words` makes them; a few tokens at a time need no arrays.

        Args:
            tokens: from the first token of a word on.
            floor: encoder frame before which no word may start.

        Returns:
            The words, and of each the position of its first and of its last token.
        """
        surfaces = self.vocabulary.surfaces([token.id for token in tokens])
        text = "".join(surfaces)
        stops: list[int] = []
        stop = 0
        for surface in surfaces:
            stop += len(surface)
            stops.append(stop)
        words: list[RecognizedWord] = []
        firsts: list[int] = []
        lasts: list[int] = []
        for begin, end in self.vocabulary.word_spans(text):
            last = bisect_right(stops, end - 1)
            # A word owns the space before it, unless that space is in a token of the word before.
            first = bisect_right(stops, max(begin - 1, 0))
            if lasts and first <= lasts[-1]:
                first = bisect_right(stops, begin)
            floor = max(floor, tokens[first].start)
            mean = sum(token.confidence for token in tokens[first : last + 1]) / (last + 1 - first)
            words.append(
                RecognizedWord(
                    "".join(text[begin:end].split()),
                    floor * self.frame_ms,
                    max(tokens[last].end, floor) * self.frame_ms,
                    min(max(mean, 0.0), 1.0),
                )
            )
            firsts.append(first)
            lasts.append(last)
        return words, firsts, lasts
