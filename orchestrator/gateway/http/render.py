"""Transcripts as OpenAI's answers: each response format, and the events of a stream."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from orchestrator.engines.whisper.quality import compression_ratio
from orchestrator.gateway.http.fields import TranscriptionRequest
from orchestrator.transcript import formats
from orchestrator.transcript.models import Segment, Transcript, Word

UNKNOWN_SPEAKER: Final = "unknown"
"""Where a segment has words that nobody can be named for; OpenAI's shape has no null there."""
_LEAST_CONFIDENCE: Final = 1e-6


def usage(transcript: Transcript) -> dict[str, Any]:
    """What the audio amounts to."""
    return {"type": "duration", "seconds": transcript.duration}


def as_text(transcript: Transcript, form: str) -> tuple[str, str]:
    """Content and media type of a format that is text: ``text``, ``srt`` or ``vtt``."""
    if form == "text":
        return transcript.text + "\n", "text/plain"
    return formats.dumps(transcript, form), formats.find(form).media_type


def as_json(transcript: Transcript, request: TranscriptionRequest) -> dict[str, Any]:
    """The answer in a format that is JSON."""
    text = {"text": transcript.text}
    if request.response_format == "json":
        return {**text, "usage": usage(transcript)}
    head = {"task": "transcribe", "duration": transcript.duration, **text, "usage": usage(transcript)}
    if request.response_format == "diarized_json":
        words = "word" in request.granularities
        return head | {
            "language": transcript.language or "",
            "segments": [_diarized(*item, words=words) for item in enumerate(transcript.segments)],
        }
    answer = head | {"language": transcript.language or ""}
    if "segment" in request.granularities:
        answer["segments"] = [_verbose(*item) for item in enumerate(transcript.segments)]
    if "word" in request.granularities:
        answer["words"] = [_word(word) for word in transcript.words]
    return answer


def events(transcript: Transcript, request: TranscriptionRequest) -> Iterator[dict[str, Any]]:
    """The stream's events: a delta a segment, with its speaker where that was asked for, and the end.

    The deltas joined are the text of the last event.
    """
    for index, segment in enumerate(transcript.segments):
        lead = " " if index else ""
        yield {"type": "transcript.text.delta", "delta": lead + segment.text}
        if request.response_format == "diarized_json":
            yield _diarized(index, segment)
    yield {"type": "transcript.text.done", "text": transcript.text, "usage": usage(transcript)}


def _diarized(index: int, segment: Segment, *, words: bool = False) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "type": "transcript.text.segment",
        "id": f"seg_{index}",
        "start": segment.start,
        "end": segment.end,
        "speaker": segment.speaker or UNKNOWN_SPEAKER,
        "text": segment.text,
    }
    if words:
        answer["words"] = [_word(word) for word in segment.words]
    return answer


def _word(word: Word) -> dict[str, Any]:
    return {"word": word.text, "start": word.start, "end": word.end, "confidence": word.confidence}


def _verbose(index: int, segment: Segment) -> dict[str, Any]:
    """One segment as Whisper's users know it.

    ``avg_logprob`` is the mean logarithm of the words' confidences, and ``compression_ratio`` is Whisper's:
    bytes of the text over its bytes when deflated. ``seek``, ``tokens``, ``temperature`` and
    ``no_speech_prob`` are of Whisper's decoder only: constant here.
    """
    confidences = [max(word.confidence, _LEAST_CONFIDENCE) for word in segment.words] or [1.0]
    return {
        "id": index,
        "seek": 0,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(sum(map(math.log, confidences)) / len(confidences), 4),
        "compression_ratio": round(compression_ratio(segment.text), 4),
        "no_speech_prob": 0.0,
    }
