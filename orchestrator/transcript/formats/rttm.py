"""RTTM (NIST Rich Transcription Time Marked): who spoke when, a ``SPEAKER`` line a turn."""

from __future__ import annotations

from orchestrator.transcript.formats.fields import (
    decimal_seconds,
    file_id,
    milliseconds,
    rows,
    same_file,
    seconds,
    tokens,
)
from orchestrator.transcript.models import Transcript, Turn

_FORM = "rttm"


def dumps(transcript: Transcript) -> str:
    """The turns, or the labelled segments where there are no turns; turns of no length are left out."""
    spans = [(turn.start, turn.end, turn.speaker) for turn in transcript.turns] or [
        (segment.start, segment.end, segment.speaker) for segment in transcript.segments if segment.speaker
    ]
    names = tokens(speaker for _, _, speaker in spans)
    name = file_id(transcript)
    lines = []
    for start, end, speaker in spans:
        start_ms, end_ms = milliseconds(start), milliseconds(end)
        if end_ms > start_ms:
            onset, length = decimal_seconds(start_ms), decimal_seconds(end_ms - start_ms)
            lines.append(f"SPEAKER {name} 1 {onset} {length} <NA> <NA> {names[speaker]} <NA> <NA>\n")
    return "".join(lines)


def loads(text: str) -> Transcript:
    """Turns from ``SPEAKER`` lines; lines of other kinds are passed over."""
    turns: list[Turn] = []
    name: str | None = None
    for number, fields in rows(text, _FORM, 1, None):
        if fields[0] != "SPEAKER":
            continue
        fields += ["<NA>"] * (8 - len(fields))
        name = same_file(name, fields[1], _FORM, number)
        start, length = seconds(fields[3], _FORM, number), seconds(fields[4], _FORM, number)
        turns.append(Turn(start=float(start), end=float(start + length), speaker=fields[7]))
    return Transcript(
        source=name or "", duration=max((turn.end for turn in turns), default=0.0), turns=tuple(turns)
    )
