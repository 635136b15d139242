"""What a stream still needs to be able to start again elsewhere: pure bookkeeping of audio and numbers.

The server says how far everything is final; the audio after that is kept. When the server loses the stream,
a new sequence begins with the kept audio, and its times and utterance numbers are moved on by what came
before. So a final is never repeated, and no audio is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from orchestrator.client.stream.codec import Pcm16
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import RecognizedWord
from orchestrator.engines.streaming import StreamSegment, StreamUpdate

_SAMPLES_PER_MS: Final = SAMPLE_RATE_HZ // 1000
_SAMPLE_BYTES: Final = 2


@dataclass(frozen=True, slots=True)
class Piece:
    """What to send next.

    Attributes:
        samples: the audio; may be empty.
        start: it opens a sequence.
        end: it closes the sequence: the stream has no more audio.
        force_end_of_utterance: make everything up to its end final.
    """

    samples: Pcm16
    start: bool
    end: bool
    force_end_of_utterance: bool


@dataclass(frozen=True, slots=True)
class Heard:
    """One segment of an answer, with times and number of the whole stream; ``samples`` of a final's span."""

    segment: StreamSegment
    samples: Pcm16


class Replay:
    """One stream's audio from the last final on, and where the server is in it.

    One piece is under way at a time: `next_piece`, then either `answered` or `lost`. Positions count samples
    from the first of the stream.
    """

    def __init__(self, chunk_ms: int, largest_ms: int) -> None:
        """Begin a stream.

        Args:
            chunk_ms: audio of one piece.
            largest_ms: audio of one piece when the server is behind; a multiple of ``chunk_ms``.
        """
        self.step(chunk_ms, largest_ms)
        self._audio = bytearray()
        self._final = 0  # position of the first sample in `_audio`: all before is final
        self._sent = 0
        self._origin = 0  # where the server's sequence began
        self._ended = False
        self._began = False
        self._opened = False  # in the sequence of now
        self._finished = False
        self._flight: Piece | None = None
        self._first_utterance = 0  # number that the sequence's utterance 0 has in the stream
        self._next_utterance = 0
        self._forced: list[int] = []  # ends of utterances that were asked for and not yet answered

    def step(self, chunk_ms: int, largest_ms: int) -> None:
        """Send pieces of another length from now on: another engine has the stream."""
        self._chunk = chunk_ms * _SAMPLES_PER_MS
        self._largest = max(largest_ms * _SAMPLES_PER_MS // self._chunk, 1) * self._chunk

    @property
    def received(self) -> int:
        """Samples taken in so far."""
        return self._final + len(self._audio) // _SAMPLE_BYTES

    @property
    def sent(self) -> int:
        """Position up to which the server's sequence has audio."""
        return self._sent

    @property
    def final(self) -> int:
        """Position up to which everything is final."""
        return self._final

    @property
    def ended(self) -> bool:
        """Whether there will be no more audio."""
        return self._ended

    @property
    def finished(self) -> bool:
        """Whether all audio was sent and everything is final."""
        return self._finished

    @property
    def opened(self) -> bool:
        """Whether the server has a sequence that is not closed."""
        return self._opened and not self._finished

    def add(self, samples: Pcm16) -> None:
        """Take in more audio; nothing once the stream has ended."""
        if not self._ended:
            self._audio += np.ascontiguousarray(samples, dtype="<i2").tobytes()

    def end(self) -> None:
        """There is no more audio."""
        self._ended = True

    def force_end_of_utterance(self) -> None:
        """Make everything taken in so far, to the millisecond, final as soon as it is heard."""
        place = self.received - self.received % _SAMPLES_PER_MS  # answers count in milliseconds
        if not self._ended and place > (self._forced[-1] if self._forced else self._final):
            self._forced.append(place)

    def next_piece(self) -> Piece | None:
        """What to send now; None: wait for more audio.

        Whole chunks, several where more has gathered; what is left when the stream ends; what is there where
        an utterance is to be ended.
        """
        if self._finished:
            return None
        waiting = self.received - self._sent
        forced = self._forced[0] - self._sent if self._forced else None
        length = min(waiting if forced is None else forced, self._largest)
        force = length == forced
        end = self._ended and length == waiting
        if not (force or end):
            length -= length % self._chunk
            if not length:
                return None
        self._flight = Piece(self._slice(self._sent, self._sent + length), not self._opened, end, force)
        return self._flight

    def sign_of_life(self) -> Piece | None:
        """A piece without audio, for a source that is silent; None before the first piece with audio.

        It opens a new sequence where the last one was lost.
        """
        if not self._began or self._finished:
            return None
        empty = np.zeros(0, np.int16)
        self._flight = Piece(empty, start=not self._opened, end=False, force_end_of_utterance=False)
        return self._flight

    def answered(self, update: StreamUpdate) -> tuple[Heard, ...]:
        """The piece under way arrived: what is new, finals first, in the stream's own times and numbers.

        Raises:
            ValueError: no piece is under way (a fault of the caller's code).
        """
        flight, self._flight = self._flight, None
        if flight is None:
            raise ValueError("an answer without a piece under way")
        self._sent += len(flight.samples)
        self._began = self._opened = True
        if flight.force_end_of_utterance:
            del self._forced[0]
        heard = tuple(self._heard(segment) for segment in update.segments)
        # A number that was final before would be a fault of the server's; finals never change.
        heard = tuple(one for one in heard if one.segment.utterance >= self._next_utterance)
        for one in heard:
            if one.segment.final:
                self._next_utterance = one.segment.utterance + 1
        self._finished = flight.end
        self._trim(self._sent if flight.end else self._origin + update.final_ms * _SAMPLES_PER_MS)
        return heard

    def audio(self, begin_ms: int, end_ms: int) -> Pcm16:
        """The audio between two times of the stream, as far as it is not final."""
        return self._slice(begin_ms * _SAMPLES_PER_MS, end_ms * _SAMPLES_PER_MS)

    def lost(self) -> None:
        """The server's sequence is gone: the next piece opens another, at the first sample not final."""
        self._flight = None
        self._opened = False
        self._sent = self._origin = self._final
        self._first_utterance = self._next_utterance
        # With all audio final there is nothing that a new sequence could still say.
        self._finished = self._ended and not self._audio

    def _trim(self, final: int) -> None:
        final = max(self._final, min(final, self._sent))
        del self._audio[: (final - self._final) * _SAMPLE_BYTES]
        self._final = final

    def _heard(self, segment: StreamSegment) -> Heard:
        offset_ms = self._origin // _SAMPLES_PER_MS
        words = tuple(
            RecognizedWord(word.text, word.start_ms + offset_ms, word.end_ms + offset_ms, word.confidence)
            for word in segment.words
        )
        moved = replace(segment, utterance=segment.utterance + self._first_utterance, words=words)
        if not (segment.final and words):
            return Heard(moved, np.zeros(0, np.int16))
        begin, end = words[0].start_ms * _SAMPLES_PER_MS, max(word.end_ms for word in words) * _SAMPLES_PER_MS
        return Heard(moved, self._slice(begin, end))

    def _slice(self, begin: int, end: int) -> Pcm16:
        """The kept audio between two positions, as far as there is any."""
        begin, end = (max(0, position - self._final) * _SAMPLE_BYTES for position in (begin, end))
        return np.frombuffer(bytes(self._audio[begin:end]), dtype="<i2")
