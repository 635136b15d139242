"""What a chunk of a live stream changed, as it crosses the wire: one JSON object in UTF-8.

::

    {"processed_ms": 2560, "final_ms": 1200, "language": "en",
     "segments": [{"utterance": 1, "final": false, "stability": 0.6,
                   "words": [["hello", 1280, 1600, 0.93]]}]}

A word is its text, start and end in milliseconds from the stream's first sample, and confidence in 0..1.
Segments are finals first, then at most one partial; ``segments`` is left out where nothing is new. The fields
mean what `StreamUpdate` says. Imports nothing heavy: the server and the client use this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from orchestrator.engines.base import RecognizedWord
from orchestrator.engines.streaming import StreamSegment, StreamUpdate

_STEPS: Final = 10_000
"""Confidences are kept to four digits."""
_to_text: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encode(update: StreamUpdate) -> bytes:
    """The update as JSON."""
    fields: dict[str, Any] = {
        "processed_ms": update.processed_ms,
        "final_ms": update.final_ms,
        "language": update.language,
    }
    if update.segments:
        fields["segments"] = [
            {
                "utterance": segment.utterance,
                "final": segment.final,
                "stability": segment.stability,
                "words": [
                    (word.text, word.start_ms, word.end_ms, int(word.confidence * _STEPS + 0.5) / _STEPS)
                    for word in segment.words
                ],
            }
            for segment in update.segments
        ]
    return _to_text(fields).encode()


def decode(content: bytes) -> StreamUpdate:
    """The update in ``content``.

    Raises:
        ValueError: it is none; says why.
    """
    try:
        fields = json.loads(content)
        segments = tuple(_segment(segment) for segment in fields.get("segments", ()))
        processed_ms, final_ms = int(fields["processed_ms"]), int(fields["final_ms"])
        language = fields["language"]
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"a field is missing or of another type: {error}") from error
    if not isinstance(language, str):
        raise ValueError("the language is no text")
    if not 0 <= final_ms <= processed_ms:
        raise ValueError(f"{final_ms} ms are final of {processed_ms} ms")
    return StreamUpdate(segments, processed_ms, final_ms, language)


def _segment(fields: Mapping[str, Any]) -> StreamSegment:
    words = tuple(_word(*word) for word in fields["words"])
    utterance, final, stability = fields["utterance"], fields["final"], float(fields["stability"])
    if type(utterance) is not int or utterance < 0 or type(final) is not bool:
        raise ValueError("a segment's number or finality makes no sense")
    if not 0 <= stability <= 1:
        raise ValueError("a stability is outside 0..1")
    return StreamSegment(utterance, words, final, stability)


def _word(text: str, start_ms: int, end_ms: int, confidence: float) -> RecognizedWord:
    if not isinstance(text, str) or type(start_ms) is not int or type(end_ms) is not int:
        raise ValueError("a word's text or times are of another type")
    if not 0 <= start_ms <= end_ms:
        raise ValueError("word times run backwards")
    if not 0 <= confidence <= 1:
        raise ValueError("a confidence is outside 0..1")
    return RecognizedWord(text, start_ms, end_ms, float(confidence))
