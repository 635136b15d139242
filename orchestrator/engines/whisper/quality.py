"""Whether what Whisper wrote for a window is to be kept, tried again, or is no speech.

The thresholds and their use are those of OpenAI's ``transcribe.py``: text that compresses too well is a loop,
an unlikely text is a guess, and an unlikely text where silence is likely is none.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from orchestrator.engines.base import RecognizedWord

LOOP_RATIO: Final = 2.4
"""Above this `compression_ratio` a text repeats itself."""
LEAST_LOG_PROBABILITY: Final = -1.0
"""Below this mean a text is a guess."""
NO_SPEECH: Final = 0.6
"""Above this probability of the no-speech token, a guess is nothing."""
_LONGEST_PHRASE: Final = 30
"""Words of a loop's phrase at most."""
_LEAST_REPEATS: Final = 3
"""Times that a phrase stands in a row in a loop: people do say a thing twice."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard a window is tried.

    Attributes:
        temperature: 0 takes the likeliest text, above it tokens are drawn.
        no_repeats: phrases that were written are made unlikely.
    """

    temperature: float = 0.0
    no_repeats: bool = False


def ladder(temperatures: Sequence[float]) -> tuple[Effort, ...]:
    """What is tried in turn until a text is kept: the likeliest, the likeliest without repeats, and then
    texts drawn at ``temperatures``."""
    return (Effort(), Effort(no_repeats=True), *(Effort(heat) for heat in temperatures))


@dataclass(frozen=True, slots=True)
class Decoding:
    """What one attempt wrote for one window.

    Attributes:
        words: with milliseconds from the window's start.
        mean_log_probability: of its tokens, natural logarithm, the end token's included.
        no_speech: probability of the no-speech token, 0..1; 0 where the engine does not tell.
    """

    words: tuple[RecognizedWord, ...]
    mean_log_probability: float
    no_speech: float = 0.0

    @property
    def text(self) -> str:
        """The words, joined by single spaces."""
        return " ".join(word.text for word in self.words)


class Verdict(Enum):
    """What becomes of an attempt."""

    KEEP = "keep"
    RETRY = "retry"
    DROP = "drop"


def compression_ratio(text: str) -> float:
    """Bytes of ``text`` in UTF-8 over its bytes when deflated; 0 for none."""
    encoded = text.encode("utf-8")
    return len(encoded) / len(zlib.compress(encoded))


def judge(decoding: Decoding) -> Verdict:
    """What becomes of an attempt, by itself."""
    # A comparison that is also true of a NaN, which is no likelihood at all.
    guessed = not decoding.mean_log_probability >= LEAST_LOG_PROBABILITY
    if guessed and decoding.no_speech > NO_SPEECH:
        return Verdict.DROP
    if guessed or compression_ratio(decoding.text) > LOOP_RATIO:
        return Verdict.RETRY
    return Verdict.KEEP


def best(attempts: Sequence[Decoding]) -> Decoding:
    """The likeliest of ``attempts`` (at least one) that does not repeat itself, or of all where all do."""
    sound = [one for one in attempts if compression_ratio(one.text) <= LOOP_RATIO]
    return max(sound or attempts, key=lambda one: _rank(one.mean_log_probability))


def kept(attempts: Sequence[Decoding]) -> tuple[RecognizedWord, ...]:
    """The words of a window after all ``attempts``: those of the best, without loops; none where it is no
    speech."""
    chosen = best(attempts)
    if judge(chosen) is Verdict.DROP:
        return ()
    if compression_ratio(chosen.text) > LOOP_RATIO:
        return without_loops(chosen.words)
    return chosen.words


def without_loops(words: Sequence[RecognizedWord]) -> tuple[RecognizedWord, ...]:
    """``words`` with each phrase that stands three or more times in a row said once; letter case and marks
    make no difference."""
    plain = ["".join(filter(str.isalnum, word.text.casefold())) or word.text for word in words]
    result: list[RecognizedWord] = []
    place = 0
    while place < len(words):
        length, times = _loop_at(plain, place)
        result.extend(words[place : place + length])
        place += length * times
    return tuple(result)


def _loop_at(plain: Sequence[str], place: int) -> tuple[int, int]:
    """Words and times of the phrase that loops from ``place`` on; one word once where none does."""
    for length in range(1, min(_LONGEST_PHRASE, (len(plain) - place) // _LEAST_REPEATS) + 1):
        phrase = plain[place : place + length]
        times = 1
        while plain[place + times * length : place + (times + 1) * length] == phrase:
            times += 1
        if times >= _LEAST_REPEATS:
            return length, times
    return 1, 1


def _rank(likelihood: float) -> float:
    return -math.inf if math.isnan(likelihood) else likelihood
