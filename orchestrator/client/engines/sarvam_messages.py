"""What Sarvam's REST service is sent and what it answers: pure.

``POST /speech-to-text``, multipart: the recording as ``file``, and the fields of `form`. Sources: the
reference of Speech to Text (REST) in docs.sarvam.ai, and the types in the ``sarvamai`` 0.1.39 package. Times
come for sentences or phrases, never for words, and there is no confidence of the words.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines import registry
from orchestrator.engines.base import LanguageGuess, Recognition, RecognizedWord, Samples
from orchestrator.engines.checks import primary_tag
from orchestrator.engines.speech_gate import FRAME
from orchestrator.engines.spread import spread_over
from orchestrator.errors import UnsupportedLanguageError
from orchestrator.settings_engines import SarvamSettings

ENGINE: Final = "sarvam"
PATH: Final = "/speech-to-text"
KEY_HEADER: Final = "api-subscription-key"
UNKNOWN: Final = "unknown"
"""The code that leaves the language to the service."""
_OWN_CODES: Final = {"or": "od"}
"""Sarvam's name of a language where it is not the BCP-47 tag."""
_THEIR_CODES: Final = {theirs: ours for ours, theirs in _OWN_CODES.items()}
_WITH_MODE: Final = "saaras"
"""Only models whose names begin so take a mode."""
_FRAME_MS: Final = 1000 * FRAME // SAMPLE_RATE_HZ


class Timestamps(BaseModel):
    """Chunks of the transcript, a sentence or a phrase each, with times in seconds."""

    model_config = ConfigDict(extra="ignore")

    words: list[str]
    start_time_seconds: list[float]
    end_time_seconds: list[float]

    @model_validator(mode="after")
    def _alike(self) -> Timestamps:
        if not len(self.words) == len(self.start_time_seconds) == len(self.end_time_seconds):
            raise ValueError("words, start_time_seconds and end_time_seconds differ in length")
        if not all(map(math.isfinite, (*self.start_time_seconds, *self.end_time_seconds))):
            raise ValueError("a time is not finite")
        return self


class Answer(BaseModel):
    """The body of a 200."""

    model_config = ConfigDict(extra="ignore")

    transcript: str
    timestamps: Timestamps | None = None
    language_code: str | None = None
    language_probability: float | None = Field(default=None, ge=0, le=1)


def language_code(language: str | None) -> str:
    """Sarvam's code of a BCP-47 tag.

    Raises:
        UnsupportedLanguageError: the service does not know the language.
    """
    if language is None:
        return UNKNOWN
    tag = primary_tag(language)
    known = registry.spec(ENGINE).languages
    if tag not in known:
        raise UnsupportedLanguageError(
            f"Sarvam does not know the language {language!r}.",
            fix=f"use one of {', '.join(known)}, or another engine.",
            model=ENGINE,
        )
    return f"{_OWN_CODES.get(tag, tag)}-IN"


def form(settings: SarvamSettings, language: str | None) -> dict[str, str]:
    """The fields beside the file."""
    fields = {
        "model": settings.model,
        "language_code": language_code(language),
        "with_timestamps": "true",
    }
    if settings.model.startswith(_WITH_MODE):
        fields["mode"] = settings.mode
    if settings.keyterms:
        fields["keyterms"] = json.dumps(settings.keyterms, ensure_ascii=False)
    return fields


def parse(body: bytes) -> Answer:
    """The answer in a body.

    Raises:
        ValueError: it is cut off, or not an answer; the text says how, without repeating what was said.
    """
    try:
        return Answer.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from error


def guess(answer: Answer) -> LanguageGuess:
    """The language that was found out; the empty tag with confidence 0 where none was."""
    if not answer.language_code:
        return LanguageGuess("", 0.0)
    return LanguageGuess(_tag(answer.language_code), answer.language_probability or 0.0)


def recognition(answer: Answer, samples: Samples, language: str | None) -> Recognition:
    """The words of an answer, with times that are spread inside the chunks that it gives.

    Without chunks, they are spread over all sound in ``samples``, the audio that was sent (float32, 16 kHz).
    """
    spoken = _tag(answer.language_code or language or "")
    words = tuple(_words(answer, samples))
    confidence = answer.language_probability if language is None else None
    return Recognition(words, spoken, times_estimated=True, language_confidence=confidence)


def _tag(code: str) -> str:
    tag = primary_tag(code)
    return _THEIR_CODES.get(tag, tag)


def _words(answer: Answer, samples: Samples) -> Iterator[RecognizedWord]:
    for text, begin_ms, end_ms in _chunks(answer, len(samples) * 1000 // SAMPLE_RATE_HZ):
        yield from spread_over(text.split(), samples, begin_ms, end_ms)


def _chunks(answer: Answer, total_ms: int) -> list[tuple[str, int, int]]:
    """Text and its first and last millisecond, in order and apart; else all is one chunk.

    The transcript is what counts: times of other words (of a mode that rewrites them), that run backwards,
    or that lie outside the audio cannot be used.
    """
    whole = [(answer.transcript, 0, total_ms)]
    times = answer.timestamps
    if times is None or " ".join(times.words).split() != answer.transcript.split():
        return whole
    chunks: list[tuple[str, int, int]] = []
    last = 0
    for text, start_s, end_s in zip(
        times.words, times.start_time_seconds, times.end_time_seconds, strict=True
    ):
        # To whole frames: two chunks that shared one would share the words' places.
        begin = -(-max(last, round(start_s * 1000)) // _FRAME_MS) * _FRAME_MS
        end = min(round(end_s * 1000) // _FRAME_MS * _FRAME_MS, total_ms)
        if start_s < 0 or start_s * 1000 < last - _FRAME_MS or end <= begin:
            return whole
        chunks.append((text, begin, end))
        last = end
    return chunks
