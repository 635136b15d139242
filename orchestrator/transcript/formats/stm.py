"""STM (NIST segment time mark): a segment a line, with its speaker."""

from __future__ import annotations

from orchestrator.transcript.formats.fields import (
    UNKNOWN,
    channel_of,
    decimal_seconds,
    fault,
    file_id,
    milliseconds,
    one_line,
    rows,
    same_file,
    seconds,
    tokens,
)
from orchestrator.transcript.models import Segment, Transcript

_FORM = "stm"


def dumps(transcript: Transcript) -> str:
    """Segments with text; one without a speaker is by ``unknown``."""
    name = file_id(transcript)
    names = tokens([UNKNOWN, *(segment.speaker for segment in transcript.segments if segment.speaker)])
    lines = []
    for segment in transcript.segments:
        text = one_line(segment.text)
        if text:
            start, end = (decimal_seconds(milliseconds(value)) for value in (segment.start, segment.end))
            # A text that begins with < would be taken for the optional label field.
            label = "<NA> " if text.startswith("<") else ""
            who = names[segment.speaker or UNKNOWN]
            lines.append(f"{name} {channel_of(segment)} {who} {start} {end} {label}{text}\n")
    return "".join(lines)


def loads(text: str) -> Transcript:
    """Segments; a label field (``<...>``) is passed over."""
    segments: list[Segment] = []
    name: str | None = None
    for number, fields in rows(text, _FORM, 5, 6):
        name = same_file(name, fields[0], _FORM, number)
        start, end = (float(seconds(field, _FORM, number)) for field in fields[3:5])
        if end < start:
            raise fault(_FORM, number, f"it ends at {fields[4]}, before its start at {fields[3]}")
        said = fields[5].strip() if len(fields) > 5 else ""
        if said.startswith("<") and ">" in said.split(None, 1)[0]:
            said = "".join(said.split(None, 1)[1:])
        who = None if fields[2] == UNKNOWN else fields[2]
        segments.append(Segment(start=start, end=end, text=said, speaker=who))
    return Transcript(
        source=name or "",
        duration=max((segment.end for segment in segments), default=0.0),
        segments=tuple(segments),
    )
