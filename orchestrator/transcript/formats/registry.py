"""The formats by name and by a file's suffix."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.errors import TranscriptFormatError
from orchestrator.transcript.formats import captions, ctm, plain, rttm, seglst, stm, structured
from orchestrator.transcript.models import Transcript


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write a transcript; ``loads`` is None where it cannot be read back."""

    name: str
    suffix: str
    media_type: str
    dumps: Callable[[Transcript], str]
    loads: Callable[[str], Transcript] | None = None


_FORMATS: Final = {
    form.name: form
    for form in (
        Format("json", ".json", "application/json", structured.dumps, structured.loads),
        Format("txt", ".txt", "text/plain", plain.dumps),
        Format("srt", ".srt", "application/x-subrip", captions.dumps_srt),
        Format("vtt", ".vtt", "text/vtt", captions.dumps_vtt),
        Format("rttm", ".rttm", "text/plain", rttm.dumps, rttm.loads),
        Format("ctm", ".ctm", "text/plain", ctm.dumps, ctm.loads),
        Format("stm", ".stm", "text/plain", stm.dumps, stm.loads),
        Format("seglst", ".seglst.json", "application/json", seglst.dumps, seglst.loads),
    )
}


def names() -> tuple[str, ...]:
    """All formats' names."""
    return tuple(_FORMATS)


def find(name: str) -> Format:
    """The format called ``name``.

    Raises:
        TranscriptFormatError: there is none; the message names the nearest.
    """
    try:
        return _FORMATS[name]
    except KeyError:
        near = difflib.get_close_matches(name.lower(), _FORMATS, n=1)
        raise TranscriptFormatError(
            f"There is no transcript format {name!r}.",
            fix=f"use {near[0]}." if near else f"use one of {', '.join(_FORMATS)}.",
        ) from None


def suffix(name: str) -> str:
    """The suffix of files of format ``name``, with its dot.

    Raises:
        TranscriptFormatError: there is no such format.
    """
    return find(name).suffix


def name_of(path: Path | str) -> str:
    """The name of the format that ``path``'s suffix stands for.

    Raises:
        TranscriptFormatError: the suffix is no format's.
    """
    lowered = Path(path).name.lower()
    for form in sorted(_FORMATS.values(), key=lambda form: -len(form.suffix)):
        if lowered.endswith(form.suffix):
            return form.name
    raise TranscriptFormatError(
        f"The suffix of {path} stands for no transcript format.",
        fix=f"use one of {', '.join(form.suffix for form in _FORMATS.values())}.",
        path=path,
    )


def dumps(transcript: Transcript, name: str) -> str:
    """``transcript`` in format ``name``, ending with a line end.

    Raises:
        TranscriptFormatError: there is no such format, or it needs word times and there are none.
    """
    return find(name).dumps(transcript)


def loads(text: str, name: str) -> Transcript:
    """What ``text`` in format ``name`` says, as far as the format can say it.

    Raises:
        TranscriptFormatError: there is no such format, it cannot be read back, or ``text`` is not of it; the
            message names the line.
    """
    form = find(name)
    if form.loads is None:
        readable = ", ".join(other.name for other in _FORMATS.values() if other.loads)
        raise TranscriptFormatError(
            f"Transcripts in format {name} are for people and cannot be read back.",
            fix=f"keep one of {readable} as well.",
        )
    return form.loads(text)
