"""From a stream's tokens to its utterances: words as they become known, partial first and then final.

Tokens come in two kinds. *Committed* ones never change; *tentative* ones come from audio whose future is not
heard yet and are replaced at the next step. Words and their times follow the rules of `nemo_words`, one token
after another, so that a stream's words equal those of the whole recording where its tokens do.

The last committed word is open, since its next piece may come with the next step: it is shown as partial and
becomes final only at an endpoint. A final never changes, and no token is in two utterances.
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.engines.base import RecognizedWord
from orchestrator.engines.endpointing import Endpoint, Endpointer, EndpointingOptions
from orchestrator.engines.lexicon import Lexicon, Timed, Token
from orchestrator.engines.streaming import StreamSegment

ONSET_MS: Final = 400
"""How long before its first token a word may be heard; audio so far back may still be needed."""
TAIL_MS: Final = 240
"""How long after its last token a word may be heard. Who begins there hears its end, and takes it for a word;
so audio so far behind a final word is not needed any more, but for a quarter of a shorter pause. (Transducers
say a word near its beginning: measured with parakeet-tiny, where words of 400 ms have tokens of 80.)"""


class Utterances:
    """The utterances of one stream. Frames are encoder frames from the start of the stream."""

    __slots__ = (
        "_before",
        "_endpointer",
        "_final_frame",
        "_floor",
        "_frames",
        "_ids",
        "_lexicon",
        "_limit",
        "_number",
        "_open",
        "_said_to",
        "_shown_ids",
        "_shown_stable",
        "_shown_texts",
        "_spoken_to",
        "_stable_ahead",
        "_stop_frames",
        "_words",
    )

    def __init__(self, lexicon: Lexicon, options: EndpointingOptions) -> None:
        """Start at frame 0, with no utterance."""
        self._lexicon = lexicon
        self._endpointer = Endpointer(options, lexicon.frame_ms)
        self._limit = math.ceil(options.max_utterance_s * 1000 / lexicon.frame_ms)
        self._stop_frames = math.ceil(options.stop_history_ms / lexicon.frame_ms)
        self._frames = 0
        self._before: int | None = None
        self._spoken_to = 0  # the end of the last committed token that is no mark
        self._stable_ahead = False  # the endpointer's mark, were the tentative frames committed
        self._floor = 0  # where the last complete word starts
        self._final_frame = 0
        self._said_to: int | None = None  # the end of the last final word
        self._number = 0
        # The utterance so far: complete words, then the tokens of the open one; the ids of all its tokens.
        self._words: list[RecognizedWord] = []
        self._open: list[Timed] = []
        self._ids: list[int] = []
        # What the last partial result said.
        self._shown_ids: list[int] = []
        self._shown_texts: list[str] = []
        self._shown_stable = False

    @property
    def final_ms(self) -> int:
        """Audio before this will never be needed again: all its words are final."""
        return self._final_frame * self._lexicon.frame_ms

    def advance(
        self, tokens: Sequence[Token], frames: int, speech: NDArray[np.bool_] | None = None
    ) -> list[StreamSegment]:
        """Take what was committed since the last call.

        Args:
            tokens: in order, none after the ``frames`` that the call adds.
            frames: how many encoder frames were committed.
            speech: ``[frames]`` whether each is speech; None to take the tokens' word for it.

        Returns:
            The utterances that have become final.
        """
        begin = self._frames
        self._frames = begin + frames
        spoken = self._spoken(tokens, begin, frames)
        if speech is None:
            speech = spoken
        finals: list[StreamSegment] = []
        timed, self._before = self._lexicon.timed(tokens, self._before)
        taken = 0
        for event in self._endpointer.push(speech):
            if event.kind == "stop":
                until = bisect_right(tokens, event.frame, lo=taken, key=_frame)
                self._add(timed[taken:until])
                taken = until
                # A word that has begun late in the silence is of the next utterance: tokens may be a little
                # ahead of what a detector hears.
                late = event.frame - self._stop_frames // 2
                self._finish(finals, keep_open=bool(self._open) and self._open[0].start > late)
        self._add(timed[taken:])
        self._end_if_long_silent(finals)
        self._end_if_long(finals)
        self._settle()
        return finals

    def foresee(
        self, tail: Sequence[Token], frames: int, speech: NDArray[np.bool_] | None = None
    ) -> list[StreamSegment]:
        """End the utterance now if the audio that is heard but not committed is the silence that ends it.

        Finals come earlier by the right context. Nothing is lost: a word that turns up there after all is of
        the next utterance.

        Args:
            tail: tentative tokens of the frames that are not committed.
            frames: how many these are.
            speech: ``[frames]`` whether each is speech; None to take the tokens' word for it.

        Returns:
            The utterance, if it has become final.
        """
        self._stable_ahead = False
        if tail or not self._ids or not self._endpointer.in_utterance:
            return []
        if speech is None:
            speech = np.arange(self._frames, self._frames + frames) < self._spoken_to
        ahead = copy.copy(self._endpointer)
        finals: list[StreamSegment] = []
        if any(event.kind == "stop" for event in ahead.push(speech)):
            self._finish(finals)
            self._endpointer.force(self._frames)
            self._spoken_to = min(self._spoken_to, self._frames)
            self._settle()
        else:
            self._stable_ahead = ahead.stable
        return finals

    def end(self) -> list[StreamSegment]:
        """Make everything committed so far final; the stream may go on.

        Returns:
            The utterance that has become final, if there was one.
        """
        finals: list[StreamSegment] = []
        self._finish(finals)
        self._endpointer.force(self._frames)
        self._spoken_to = min(self._spoken_to, self._frames)
        self._final_frame = self._said_to = self._frames
        return finals

    def partial(self, tail: Sequence[Token]) -> StreamSegment | None:
        """The utterance as far as it is known, or None where nothing is new since the last call.

        Args:
            tail: tentative tokens after the committed ones.
        """
        stable = (self._endpointer.stable or self._stable_ahead) and not tail and bool(self._ids)
        ids = [*self._ids, *(token[0] for token in tail)]
        if ids == self._shown_ids and stable == self._shown_stable:
            return None
        after, _ = self._lexicon.timed(tail, self._before)
        if not self._ids:
            after = self._without_stray_marks(after)
        words = [*self._words, *self._lexicon.words([*self._open, *after], self._floor)[0]]
        texts = [word.text for word in words]
        changed = texts != self._shown_texts or stable != self._shown_stable
        self._shown_ids, self._shown_texts, self._shown_stable = ids, texts, stable
        if not changed:
            return None
        stability = 1.0 if stable else len(self._words) / max(len(words), 1)
        return StreamSegment(self._number, tuple(words), final=False, stability=stability)

    def _spoken(self, tokens: Sequence[Token], begin: int, frames: int) -> NDArray[np.bool_]:
        speech = np.zeros(frames, dtype=np.bool_)
        speech[: max(self._spoken_to - begin, 0)] = True
        for token, frame, lasts, _ in tokens:
            if not self._lexicon.is_mark[token]:  # a mark may come long after the word, in the silence
                end = frame + max(lasts, 1)
                speech[max(frame - begin, 0) : max(end - begin, 0)] = True
                self._spoken_to = max(self._spoken_to, end)
        return speech

    def _add(self, timed: list[Timed]) -> None:
        """Put committed tokens into the utterance and see which of its words are complete."""
        if not self._ids:
            timed = self._without_stray_marks(timed)
        if not timed:
            return
        self._ids.extend(token.id for token in timed)
        self._open.extend(timed)
        lexicon = self._lexicon
        # A word is complete once the next one has begun; a run of byte pieces may become anything yet.
        if lexicon.is_byte[timed[-1].id] or not any(lexicon.opens_word[token.id] for token in timed):
            return
        words, firsts, lasts = lexicon.words(self._open, self._floor)
        if len(words) > 1 and firsts[-1] > lasts[-2]:
            self._words += words[:-1]
            self._floor = words[-2].start_ms // lexicon.frame_ms
            del self._open[: firsts[-1]]

    def _without_stray_marks(self, timed: list[Timed]) -> list[Timed]:
        """Leave out marks that belong to a word which is final already."""
        if not self._number:
            return timed
        stray = 0
        while stray < len(timed) and self._is_stray(timed[stray].id):
            stray += 1
        return timed[stray:]

    def _is_stray(self, token: int) -> bool:
        return self._lexicon.is_mark[token] and not self._lexicon.opens_word[token]

    def _finish(self, finals: list[StreamSegment], *, keep_open: bool = False) -> None:
        """Make the utterance final; ``keep_open``: the open word begins the next one."""
        words = self._words
        if not keep_open:
            rest, _, _ = self._lexicon.words(self._open, self._floor)
            words = words + rest
            if rest:
                self._floor = rest[-1].start_ms // self._lexicon.frame_ms
            self._open = []
        if words:
            finals.append(StreamSegment(self._number, tuple(words), final=True, stability=1.0))
            self._number += 1
            end = words[-1].end_ms // self._lexicon.frame_ms
            self._said_to = min(end, self._open[0].start) if self._open else end
            self._shown_ids, self._shown_texts, self._shown_stable = [], [], False
        self._words = []
        self._ids = [token.id for token in self._open]

    def _end_if_long_silent(self, finals: list[StreamSegment]) -> None:
        """End words that the endpointer did not take for an utterance: nothing else would."""
        silent = self._frames - self._spoken_to >= self._stop_frames
        if self._ids and silent and not self._endpointer.in_utterance:
            self._finish(finals)

    def _end_if_long(self, finals: list[StreamSegment]) -> None:
        """End an utterance that is over the limit, in front of its open word if it has others."""
        while self._ids and self._frames - self._begin() >= self._limit:
            if not self._words:
                self._finish(finals)
                self._endpointer.force(self._frames)
                return
            self._finish(finals, keep_open=True)
            cut = min(self._open[0].start, self._frames) if self._open else self._frames
            for event in self._endpointer.force(cut):
                if event != Endpoint(cut, "stop") and event.kind == "stop":
                    self._finish(finals)

    def _begin(self) -> int:
        """The frame at which the utterance's first word starts."""
        if self._words:
            return self._words[0].start_ms // self._lexicon.frame_ms
        return self._open[0].start

    def _settle(self) -> None:
        """See how far back audio may still be needed."""
        ahead = self._begin() if self._ids else self._frames
        before = ahead - ONSET_MS // self._lexicon.frame_ms
        if self._said_to is not None:
            pause = max(ahead - self._said_to, 0)
            before = max(before, self._said_to + min(TAIL_MS // self._lexicon.frame_ms, pause * 3 // 4))
        self._final_frame = max(self._final_frame, before)


def _frame(token: Token) -> int:
    return token[1]
