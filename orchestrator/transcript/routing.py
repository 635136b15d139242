"""Which engine wrote a transcript, and why it was this one."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Considered(_Record):
    """An engine that was thought of, and why it stood where it did, or was left out."""

    engine: str
    why: str


class FailedAttempt(_Record):
    """An engine that was asked and failed; the next one was asked after it."""

    engine: str
    error: str
    """The error's class."""
    message: str


class RoutingRecord(_Record):
    """A router's decision, and what became of it."""

    task: str
    language: str | None = None
    """That was given or found out before the choice; None: it was not known."""
    language_confidence: float | None = Field(default=None, ge=0, le=1)
    """How sure the language is that was found out, too little for one that is not known; None where it was
    given, or nobody was asked."""
    rule: str
    engine: str
    """That did the work in the end."""
    model: str
    considered: tuple[Considered, ...] = ()
    """In order: those that could do it, then those that could not."""
    failed: tuple[FailedAttempt, ...] = ()

    def lines(self) -> Iterator[str]:
        """The decision for people."""
        if self.language is None and self.language_confidence is None:
            yield "Language: not known"
        elif self.language is None:
            yield f"Language: not known, the best guess has confidence {self.language_confidence:.2f}"
        elif self.language_confidence is None:
            yield f"Language: {self.language}, as given"
        else:
            yield f"Language: {self.language}, found out with confidence {self.language_confidence:.2f}"
        yield f"Rule: {self.rule}"
        for one in self.considered:
            yield f"  {one.engine}: {one.why}"
        for attempt in self.failed:
            yield f"Failed: {attempt.engine}: {attempt.error}: {attempt.message}"
        yield f"Engine: {self.engine} (model {self.model})"
