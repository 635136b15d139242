"""SubRip (srt) and WebVTT (vtt) captions; `cues` says how a transcript is cut."""

from __future__ import annotations

from orchestrator.transcript.formats.cues import cues
from orchestrator.transcript.models import Transcript


def dumps_srt(transcript: Transcript) -> str:
    """SubRip. The format has no place for speakers, so a change of speaker begins with ``Name: ``."""
    blocks = []
    for number, cue in enumerate(cues(transcript, name_speakers=True), start=1):
        # The arrow would look like a line of times.
        lines = "\n".join(line.replace("-->", "→") for line in cue.lines)
        blocks.append(f"{number}\n{_time(cue.start_ms, ',')} --> {_time(cue.end_ms, ',')}\n{lines}\n")
    return "\n".join(blocks)


def dumps_vtt(transcript: Transcript) -> str:
    """WebVTT, with the speaker of each cue as its voice (``<v Name>``)."""
    blocks = ["WEBVTT\n"]
    for cue in cues(transcript):
        voice = f"<v {_escape(cue.speaker)}>" if cue.speaker else ""
        lines = "\n".join(_escape(line) for line in cue.lines)
        blocks.append(f"{_time(cue.start_ms, '.')} --> {_time(cue.end_ms, '.')}\n{voice}{lines}\n")
    return "\n".join(blocks)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(value_ms: int, point: str) -> str:
    seconds, milliseconds = divmod(value_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{milliseconds:03d}"
