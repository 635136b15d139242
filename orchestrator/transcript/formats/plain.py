"""Text for people: a line a segment, ``[00:06.7] Speaker 1: Hello.``"""

from __future__ import annotations

from orchestrator.transcript.formats.fields import one_line
from orchestrator.transcript.models import Transcript


def clock(seconds: float) -> str:
    """``mm:ss.t``, with hours in front from the first hour on; tenths are cut, not rounded."""
    tenths = round(seconds * 1000) // 100
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours}:{minutes:02d}" if hours else f"{minutes:02d}"
    return f"{start}:{rest // 10:02d}.{rest % 10}"


def dumps(transcript: Transcript) -> str:
    """Segments with a start and, where known, the speaker; segments without text are left out."""
    lines = []
    for segment in transcript.segments:
        text = one_line(segment.text)
        if text:
            who = f"{one_line(segment.speaker)}: " if segment.speaker else ""
            lines.append(f"[{clock(segment.start)}] {who}{text}\n")
    return "".join(lines)
