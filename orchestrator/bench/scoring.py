"""WER and cpWER, as the field's own packages count them, after Whisper's English text normaliser.

WER = (substitutions + deletions + insertions) / reference words (jiwer). cpWER joins each speaker's words
and takes the best pairing of reference and hypothesis speakers before counting (meeteval), so a word given to
the wrong speaker is an error. Neither is bounded by 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.bench.recordings import SpokenLine
from orchestrator.errors import MissingDependencyError
from orchestrator.transcript.models import Transcript


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Counted errors; add two to score them as one text."""

    substitutions: int
    deletions: int
    insertions: int
    words: int
    """Words in the reference."""

    @property
    def errors(self) -> int:
        """All errors."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors a reference word; 0 for an empty reference without insertions."""
        if self.words == 0:
            return 0.0 if self.errors == 0 else float("inf")
        return self.errors / self.words

    def __add__(self, other: ErrorRate) -> ErrorRate:
        return ErrorRate(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.words + other.words,
        )


def _needs_bench_extra(error: ImportError) -> MissingDependencyError:
    return MissingDependencyError(
        f"scoring needs the package {error.name}", fix="pip install 'spark-speech[bench]'"
    )


def normalize(text: str) -> str:
    """Lower case, no punctuation, numbers and contractions in one spelling (Radford et al. 2022, appendix C).

    Raises:
        MissingDependencyError: the extra ``[bench]`` is not installed.
    """
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise _needs_bench_extra(error) from error
    return str(EnglishTextNormalizer()(text)).strip()


def word_error_rate(reference: str, hypothesis: str) -> ErrorRate:
    """WER of one text.

    Raises:
        MissingDependencyError: the extra ``[bench]`` is not installed.
    """
    try:
        import jiwer
    except ImportError as error:
        raise _needs_bench_extra(error) from error
    wanted, got = normalize(reference), normalize(hypothesis)
    if not wanted:  # jiwer refuses an empty reference
        return ErrorRate(0, 0, len(got.split()), 0)
    counts = jiwer.process_words(wanted, got)
    return ErrorRate(counts.substitutions, counts.deletions, counts.insertions, len(wanted.split()))


def speaker_error_rate(reference: Iterable[SpokenLine], hypothesis: Transcript) -> ErrorRate:
    """CpWER of one recording; words without a speaker count as a speaker of their own.

    Raises:
        MissingDependencyError: the extra ``[bench]`` is not installed.
    """
    try:
        import meeteval
    except ImportError as error:
        raise _needs_bench_extra(error) from error
    wanted = _seglst((line.speaker, line.start, line.end, line.text) for line in reference)
    got = _seglst((part.speaker or "?", part.start, part.end, part.text) for part in hypothesis.segments)
    counts = meeteval.wer.cpwer(meeteval.io.SegLST(wanted), meeteval.io.SegLST(got))["recording"]
    return ErrorRate(counts.substitutions, counts.deletions, counts.insertions, counts.length)


def _seglst(lines: Iterable[tuple[str, float, float, str]]) -> list[dict[str, object]]:
    return [
        {
            "session_id": "recording",
            "speaker": speaker,
            "start_time": start,
            "end_time": end,
            "words": normalize(text),
        }
        for speaker, start, end, text in lines
    ]
