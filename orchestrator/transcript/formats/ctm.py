"""CTM (NIST time marked conversation): a word a line, with times and confidence."""

from __future__ import annotations

from orchestrator.errors import TranscriptFormatError
from orchestrator.transcript.formats.fields import (
    decimal_seconds,
    fault,
    file_id,
    milliseconds,
    rows,
    same_file,
    seconds,
    token,
)
from orchestrator.transcript.models import Segment, Transcript, Word

_FORM = "ctm"


def dumps(transcript: Transcript) -> str:
    """All words by channel and start, as scoring tools want them; speakers are not part of the format."""
    if any(segment.text.strip() and not segment.words for segment in transcript.segments):
        raise TranscriptFormatError(
            "CTM is made of words with times, and this transcript has segments without.",
            fix="use a format of segments: stm, seglst or srt.",
        )
    name = file_id(transcript)
    lines = []
    for word in sorted(transcript.words, key=lambda word: (word.channel or 0, word.start)):
        start_ms, end_ms = milliseconds(word.start), milliseconds(word.end)
        channel = 1 if word.channel is None else word.channel + 1
        times = f"{decimal_seconds(start_ms)} {decimal_seconds(end_ms - start_ms)}"
        lines.append(f"{name} {channel} {times} {token(word.text)} {word.confidence:.4f}\n")
    return "".join(lines)


def loads(text: str) -> Transcript:
    """Words, in one segment a channel; channels may be numbers or the letters A, B, ..."""
    channels: dict[int, list[Word]] = {}
    name: str | None = None
    for number, fields in rows(text, _FORM, 5, None):
        name = same_file(name, fields[0], _FORM, number)
        channel = _channel(fields[1], number)
        start, length = seconds(fields[2], _FORM, number), seconds(fields[3], _FORM, number)
        confidence = float(seconds(fields[5], _FORM, number)) if fields[5:6] not in ([], ["NA"]) else 1.0
        if confidence > 1:
            raise fault(_FORM, number, f"a confidence of {fields[5]}, more than 1")
        channels.setdefault(channel, []).append(
            Word(
                text=fields[4],
                start=float(start),
                end=float(start + length),
                confidence=confidence,
                channel=channel,
            )
        )
    segments = tuple(
        Segment(
            start=words[0].start,
            end=max(word.end for word in words),
            text=" ".join(word.text for word in words),
            words=tuple(words),
        )
        for _, words in sorted(channels.items())
    )
    return Transcript(
        source=name or "", duration=max((segment.end for segment in segments), default=0.0), segments=segments
    )


def _channel(field: str, number: int) -> int:
    if field.isdecimal() and field != "0":
        return int(field) - 1
    if len(field) == 1 and "A" <= field <= "Z":
        return ord(field) - ord("A")
    raise fault(_FORM, number, f"{field!r} is no channel")
