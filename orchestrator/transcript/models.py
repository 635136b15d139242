"""The answer to *who said what, when*: words, turns, segments, transcript.

Times are seconds from the start of the recording, kept to the millisecond.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from orchestrator.transcript.routing import RoutingRecord

SCHEMA_VERSION: Final = 1

Seconds = Annotated[
    float, Field(ge=0, allow_inf_nan=False), AfterValidator(lambda value: round(value, 3) + 0.0)
]
"""Seconds, rounded to a millisecond; adding 0.0 makes a negative zero positive."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Span(_Model):
    start: Seconds
    end: Seconds

    @model_validator(mode="after")
    def _ordered(self) -> Any:
        if self.end < self.start:
            raise ValueError(f"end {self.end} is before start {self.start}")
        return self


class Word(_Span):
    """One word; ``speaker`` is None where nobody can be named, ``overlap`` marks that others spoke too."""

    text: str
    confidence: float = Field(default=1.0, ge=0, le=1)
    speaker: str | None = None
    speaker_confidence: float | None = Field(default=None, ge=0, le=1)
    """How sure the speaker label is, in 0..1; None without a label."""
    overlap: bool = False
    channel: int | None = None
    times_estimated: bool | None = None
    """Whether this word's times were spread, not measured; None: as `Transcript.times_estimated` says."""

    def estimated_in(self, transcript: Transcript) -> bool:
        """Whether its times were spread, as a word of ``transcript``."""
        return transcript.times_estimated if self.times_estimated is None else self.times_estimated


class Turn(_Span):
    """One stretch of one speaker."""

    speaker: str


class Segment(_Span):
    """Consecutive words of one speaker."""

    text: str
    speaker: str | None = None
    words: tuple[Word, ...] = ()


class AlignmentRecord(_Model):
    """Word times that were measured after the engine, which gave none, was done."""

    model: str | None
    """The aligner; None: there was none."""
    words: int = Field(ge=0)
    """All words of the transcript."""
    measured: int = Field(ge=0)
    """Those with measured times."""
    failed: str | None = None
    """Why words kept estimated times, where aligning failed."""


class Transcript(_Model):
    """What was said in one recording, by whom and when."""

    schema_version: Literal[1] = SCHEMA_VERSION
    source: str = ""
    """The recording's name, for people and for formats that carry one."""
    duration: Seconds = 0.0
    language: str | None = None
    engine: str | None = None
    times_estimated: bool = False
    """True where word times were spread inside longer spans, not measured; single words may say otherwise."""
    segments: tuple[Segment, ...] = ()
    turns: tuple[Turn, ...] = ()
    """The diarizer's full turns, which may overlap; empty without diarization."""
    exclusive_turns: tuple[Turn, ...] = ()
    routing: RoutingRecord | None = None
    """Why this engine; None where nothing was chosen."""
    alignment: AlignmentRecord | None = None
    """How words got measured times from an engine that has none; None where nothing had to be done."""

    @property
    def words(self) -> tuple[Word, ...]:
        """All words in order."""
        return tuple(word for segment in self.segments for word in segment.words)

    @property
    def text(self) -> str:
        """All words, joined by single spaces."""
        return " ".join(segment.text for segment in self.segments)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Speakers in order of first appearance in the turns, then in the words."""
        named = [turn.speaker for turn in self.turns]
        named += [word.speaker for word in self.words if word.speaker is not None]
        return tuple(dict.fromkeys(named))
