"""How far word times are off: spread ones, the aligner's, and those that a recogniser measures.

A word counts where a recogniser wrote what was said: the words of reference and transcript are paired by
their text, in order. With known words the aligner gets the reference's own, so that no recogniser's errors
count.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from orchestrator.bench.report import Row
from orchestrator.client.seams import normalise
from orchestrator.engines.alignment.base import Aligner
from orchestrator.engines.base import Recognizer, Samples
from orchestrator.errors import ConfigurationError
from orchestrator.progress import ProgressReporter, SilentProgress

_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word and when it was said, in milliseconds."""

    text: str
    start_ms: float
    end_ms: float


@dataclass(frozen=True, slots=True)
class Errors:
    """How far off the paired words of some recordings are, in milliseconds.

    Attributes:
        starts, ends: absolute differences, one a pair.
        words: of the references.
    """

    starts: tuple[float, ...]
    ends: tuple[float, ...]
    words: int

    def __add__(self, other: Errors) -> Errors:
        return Errors(self.starts + other.starts, self.ends + other.ends, self.words + other.words)

    def row(self, speech: str, times: str) -> Row:
        """As a line of a report."""
        return {
            "speech": speech,
            "times": times,
            "words": self.words,
            "paired": len(self.starts),
            "start_median_ms": _quantile(self.starts, 0.5),
            "start_p90_ms": _quantile(self.starts, 0.9),
            "end_median_ms": _quantile(self.ends, 0.5),
            "end_p90_ms": _quantile(self.ends, 0.9),
        }


NONE: Final = Errors((), (), 0)


def compare(reference: Sequence[TimedWord], found: Sequence[TimedWord]) -> Errors:
    """The errors of ``found`` against ``reference``, where both have the same words in the same order."""
    pairs = list(_pairs(reference, found))
    return Errors(
        tuple(abs(right.start_ms - left.start_ms) for left, right in pairs),
        tuple(abs(right.end_ms - left.end_ms) for left, right in pairs),
        len(reference),
    )


def _pairs(
    reference: Sequence[TimedWord], found: Sequence[TimedWord]
) -> Iterator[tuple[TimedWord, TimedWord]]:
    matcher = difflib.SequenceMatcher(None, _texts(reference), _texts(found), autojunk=False)
    for left, right, size in matcher.get_matching_blocks():
        yield from zip(reference[left : left + size], found[right : right + size], strict=True)


def _texts(words: Iterable[TimedWord]) -> list[str]:
    return [normalise(word.text) for word in words]


def _quantile(values: Sequence[float], share: float) -> float | None:
    return round(float(np.quantile(values, share))) if values else None


def read_text_grid(path: Path, tier: str = "words") -> tuple[TimedWord, ...]:
    """The words of a Praat TextGrid, in its long or its short form; silences are left out.

    Raises:
        ConfigurationError: it is not a TextGrid, or has no such tier.
    """
    try:
        values = _values(path.read_text(encoding="utf-8"))
        at = next(i for i in range(len(values) - 1) if values[i : i + 2] == ["IntervalTier", tier]) + 4
        count = int(values[at])
        rows = [values[at + 1 + 3 * number : at + 4 + 3 * number] for number in range(count)]
        words = (TimedWord(text, float(start) * _MS, float(end) * _MS) for start, end, text in rows)
        return tuple(word for word in words if normalise(word.text))
    except (OSError, ValueError, StopIteration, IndexError) as error:
        raise ConfigurationError(
            f"{path} is not a TextGrid with a tier {tier!r}",
            fix="export it from Praat, with intervals of words",
            path=path,
        ) from error


def _values(text: str) -> list[str]:
    """The values of either form in order: numbers, and texts without their quotes."""
    values = []
    for line in text.splitlines():
        value = line.rpartition("= ")[2].strip()
        if value.startswith('"') and value.endswith('"') and len(value) > 1:
            values.append(value[1:-1].replace('""', '"'))
        elif value.replace(".", "", 1).isdigit():
            values.append(value)
    return values


@dataclass(frozen=True, slots=True)
class TimedSpeech:
    """Speech whose word times are known.

    Attributes:
        name: the recording's, or the synthesiser's.
        samples: float32 ``[n]`` at 16 kHz.
        words: in order.
    """

    name: str
    samples: Samples
    words: tuple[TimedWord, ...]


def run(
    speech: Sequence[TimedSpeech],
    recognisers: Mapping[str, Recognizer],
    aligner: Aligner | None,
    *,
    progress: ProgressReporter | None = None,
) -> list[Row]:
    """The errors of every recogniser's own times, of the aligner's for its words, and for the known words.

    Speech of one name is one line.

    Raises:
        InferenceError: a model failed.
    """
    found: dict[tuple[str, str], Errors] = {}
    task = (progress or SilentProgress()).task("word times", total=len(speech))
    for done, one in enumerate(speech):
        for times, words in _ways(one, recognisers, aligner):
            key = (one.name, times)
            found[key] = found.get(key, NONE) + compare(one.words, words)
        task.update(completed=done + 1)
    task.finish()
    return [errors.row(name, times) for (name, times), errors in sorted(found.items())]


def _ways(
    speech: TimedSpeech, recognisers: Mapping[str, Recognizer], aligner: Aligner | None
) -> Iterator[tuple[str, list[TimedWord]]]:
    for name, recogniser in recognisers.items():
        (heard,) = recogniser.recognize([speech.samples])
        kind = "estimated" if heard.times_estimated else "measured"
        yield (
            f"{name}, {kind}",
            [TimedWord(word.text, word.start_ms, word.end_ms) for word in heard.words],
        )
        if aligner is not None and heard.times_estimated:
            yield f"{name}, aligned", _aligned(aligner, speech.samples, [word.text for word in heard.words])
    if aligner is not None:
        yield "known words, aligned", _aligned(aligner, speech.samples, [word.text for word in speech.words])


def _aligned(aligner: Aligner, samples: Samples, words: Sequence[str]) -> list[TimedWord]:
    """Words that were not found are left out: they stay estimated."""
    (times,) = aligner.align([(samples, tuple(words))])
    return [
        TimedWord(word, time.start_ms, time.end_ms)
        for word, time in zip(words, times, strict=True)
        if time.measured
    ]
