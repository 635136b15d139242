"""What the line formats share: fields without white space, times in exact milliseconds, readable failures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import PurePath
from typing import Final

from orchestrator.errors import TranscriptFormatError
from orchestrator.transcript.models import Segment, Transcript

UNKNOWN: Final = "unknown"
"""Who spoke, in formats that must say it, where nobody knows; read back as no speaker."""
_LONGEST_S: Final = 10_000_000


def one_line(text: str) -> str:
    """``text`` with every run of white space as one space, and no control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def token(text: str) -> str:
    """``text`` as one field: white space and a leading ``;`` (a comment) become ``_``, nothing ``-``."""
    field = one_line(text).replace(" ", "_")
    return ("_" + field[1:] if field.startswith(";") else field) or "-"


def tokens(names: Iterable[str]) -> dict[str, str]:
    """A field for each name, different ones for different names."""
    fields: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        field = base = token(name)
        number = 2
        while field in taken:
            field, number = f"{base}_{number}", number + 1
        taken.add(field)
        fields[name] = field
    return fields


def file_id(transcript: Transcript) -> str:
    """The recording's name in scoring formats: its file's name without the suffix."""
    return token(PurePath(transcript.source).stem)


def milliseconds(seconds: float) -> int:
    """Whole milliseconds."""
    return round(seconds * 1000)


def decimal_seconds(value_ms: int) -> str:
    """Seconds with three decimals, exact."""
    return f"{value_ms // 1000}.{value_ms % 1000:03d}"


def channel_of(segment: Segment) -> int:
    """The channel of a segment, counted from 1 as scoring formats do."""
    channel = segment.words[0].channel if segment.words else None
    return 1 if channel is None else channel + 1


def rows(text: str, form: str, least: int, most: int | None) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line that is no comment.

    Args:
        text: the file.
        form: the format's name, for messages.
        least: the fewest fields a line has.
        most: into how many fields a line is split at most; None for all.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith(";;"):
            continue
        fields = line.split(None, -1 if most is None else most - 1)
        if len(fields) < least:
            raise fault(form, number, f"{len(fields)} fields where {least} belong")
        yield number, fields


def seconds(field: str, form: str, number: int) -> Decimal:
    """``field`` as seconds, 0 or more."""
    try:
        value = Decimal(field)
    except InvalidOperation:
        raise fault(form, number, f"{field!r} is no time in seconds") from None
    if not value.is_finite() or not 0 <= value <= _LONGEST_S:
        raise fault(form, number, f"{field!r} is no time in seconds")
    return value


def same_file(seen: str | None, field: str, form: str, number: int) -> str:
    """``field``, if it is the recording that the lines before were about."""
    if seen not in (None, field):
        raise fault(form, number, f"a second recording, {field!r} after {seen!r}; a transcript is of one")
    return field


def fault(form: str, number: int, reason: str) -> TranscriptFormatError:
    """The error for a line that cannot be read."""
    return TranscriptFormatError(
        f"Line {number} is no {form.upper()}: {reason}.",
        fix=f"correct the line, or check that this is {form.upper()}.",
    )
