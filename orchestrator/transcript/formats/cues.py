"""Cut a transcript into caption cues that can be read while they show.

A cue has one speaker, at most two lines of 42 characters and 7 seconds (the usual broadcast limits; only a
single word may be longer). It ends with its sentence where that fills half of it, before a pause of 1.5 s,
and where it must be cut inside a sentence, after a comma if there is one in its second half. It shows for
1 second at least, if the next cue leaves the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

from orchestrator.transcript.formats.fields import milliseconds, one_line
from orchestrator.transcript.models import Segment, Transcript

LINE_CHARACTERS: Final = 42
LINES: Final = 2
LONGEST_MS: Final = 7_000
SHORTEST_MS: Final = 1_000
PAUSE_MS: Final = 1_500

_SENTENCE_ENDS: Final = (".", "?", "!", "…", "。", "？", "！", "।")
_CLAUSE_ENDS: Final = (",", ";", ":", "—", "、", "，")
_CLOSERS: Final = "\"')]}»”’"


@dataclass(frozen=True, slots=True)
class Cue:
    """One caption: times in ms, its lines, and the speaker, who is not part of the lines."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]
    speaker: str | None


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    start_ms: int
    end_ms: int


def cues(transcript: Transcript, *, name_speakers: bool = False) -> list[Cue]:
    """Cues by start.

    Args:
        transcript: with or without words; without, a segment's text is spread over it by letters.
        name_speakers: keep room in front of a cue whose speaker is not the one before for ``Name: ``, and
            write it there.
    """
    result: list[Cue] = []
    before: str | None = None
    for segment in sorted(transcript.segments, key=lambda segment: segment.start):
        speaker = one_line(segment.speaker or "") or None
        named = name_speakers and speaker is not None and speaker != before
        prefix = f"{speaker}: " if named else ""
        for part in _parts(_pieces(segment), prefix):
            lines = wrap(prefix + " ".join(piece.text for piece in part))
            prefix = ""
            start = part[0].start_ms
            end = max(piece.end_ms for piece in part)
            result.append(Cue(start, end, lines, speaker))
            before = speaker
    result.sort(key=lambda cue: cue.start_ms)
    return _shown_long_enough(result)


def wrap(text: str) -> tuple[str, ...]:
    """``text`` as one line, or as two as even as can be; a text that fits neither is cut where it must."""
    if len(text) <= LINE_CHARACTERS:
        return (text,)
    breaks = [at for at, char in enumerate(text) if char == " "]
    if not breaks:
        return (text,)
    at = min(breaks, key=lambda at: max(at, len(text) - at - 1))
    return text[:at], text[at + 1 :]


def _fits(text: str) -> bool:
    return all(len(line) <= LINE_CHARACTERS for line in wrap(text))


def _pieces(segment: Segment) -> list[_Piece]:
    """Words with times; those of a segment without are spread over it in proportion to their length."""
    if segment.words:
        timed = [
            (one_line(word.text), milliseconds(word.start), milliseconds(word.end)) for word in segment.words
        ]
        return [_Piece(text, start, end) for text, start, end in timed if text]
    words = one_line(segment.text).split()
    total = sum(len(word) for word in words)
    start, length = milliseconds(segment.start), milliseconds(segment.end) - milliseconds(segment.start)
    edges = [start + length * done // max(total, 1) for done in accumulate(map(len, words), initial=0)]
    return [_Piece(word, edges[at], edges[at + 1]) for at, word in enumerate(words)]


def _parts(pieces: Sequence[_Piece], prefix: str) -> Iterator[Sequence[_Piece]]:
    """Cut one speaker's pieces into cues; ``prefix`` takes room in the first."""
    start = 0
    at = 0
    while at < len(pieces):
        text = prefix + " ".join(piece.text for piece in pieces[start : at + 1])
        if at > start and (not _fits(text) or pieces[at].end_ms - pieces[start].start_ms > LONGEST_MS):
            at = _cut(pieces, start, at)
        elif at > start and pieces[at].start_ms - pieces[at - 1].end_ms >= PAUSE_MS:
            pass
        elif _ends(pieces[at], _SENTENCE_ENDS) and len(text) >= LINE_CHARACTERS * LINES // 2:
            at += 1
        else:
            at += 1
            continue
        yield pieces[start:at]
        start, prefix = at, ""
    if start < len(pieces):
        yield pieces[start:]


def _cut(pieces: Sequence[_Piece], start: int, end: int) -> int:
    """Where to end a cue that cannot hold ``pieces[end]``: after a sentence, a clause, or just before it."""
    for ends, least in ((_SENTENCE_ENDS, start), (_CLAUSE_ENDS, (start + end) // 2)):
        for at in range(end - 1, least - 1, -1):
            if _ends(pieces[at], ends):
                return at + 1
    return end


def _ends(piece: _Piece, marks: tuple[str, ...]) -> bool:
    return piece.text.rstrip(_CLOSERS).endswith(marks)


def _shown_long_enough(ordered: list[Cue]) -> list[Cue]:
    result = []
    for at, cue in enumerate(ordered):
        wanted = max(cue.end_ms, cue.start_ms + SHORTEST_MS)
        if at + 1 < len(ordered):
            wanted = min(wanted, max(ordered[at + 1].start_ms, cue.end_ms))
        # Players drop a cue of no length.
        result.append(replace(cue, end_ms=max(wanted, cue.start_ms + 1)))
    return result
