"""SegLST, meeteval's format for scoring: a JSON list of segments.

Each has ``session_id``, ``speaker``, ``start_time`` and ``end_time`` in seconds, and ``words``.
"""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import TranscriptFormatError
from orchestrator.transcript.formats.fields import UNKNOWN, one_line
from orchestrator.transcript.models import Segment, Transcript


def dumps(transcript: Transcript) -> str:
    """Segments with text; one without a speaker is by ``unknown``, as scoring needs a name."""
    session = PurePath(transcript.source).stem
    entries = [
        {
            "session_id": session,
            "speaker": segment.speaker or UNKNOWN,
            "start_time": segment.start,
            "end_time": segment.end,
            "words": one_line(segment.text),
        }
        for segment in transcript.segments
        if one_line(segment.text)
    ]
    return json.dumps(entries, indent=2, ensure_ascii=False) + "\n"


def loads(text: str) -> Transcript:
    """Segments of one session."""
    try:
        entries = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _fault(f"it is no JSON: {error}") from error
    if not isinstance(entries, list):
        raise _fault("it is no list")
    sessions = list(
        dict.fromkeys(entry.get("session_id", "") for entry in entries if isinstance(entry, dict))
    )
    if len(sessions) > 1:
        raise _fault(f"it holds {len(sessions)} sessions, and a transcript is of one")
    segments = tuple(_segment(number, entry) for number, entry in enumerate(entries, start=1))
    return Transcript(
        source=str(sessions[0]) if sessions else "",
        duration=max((segment.end for segment in segments), default=0.0),
        segments=segments,
    )


def _segment(number: int, entry: Any) -> Segment:
    if not isinstance(entry, dict):
        raise _fault(f"entry {number} is no object")
    speaker = entry.get("speaker")
    try:
        return Segment.model_validate(
            {
                "start": entry.get("start_time"),
                "end": entry.get("end_time"),
                "text": entry.get("words"),
                "speaker": None if speaker == UNKNOWN else speaker,
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _fault(f"entry {number}, {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _fault(reason: str) -> TranscriptFormatError:
    return TranscriptFormatError(
        f"This is no SegLST: {reason}.", fix="check the file, or name its real format."
    )
