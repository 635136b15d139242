"""JSON: the whole transcript, and the only format that loses nothing."""

from __future__ import annotations

from pydantic import ValidationError

from orchestrator.errors import TranscriptFormatError
from orchestrator.transcript.models import Transcript


def dumps(transcript: Transcript) -> str:
    """The transcript's fields as `Transcript` documents them."""
    return transcript.model_dump_json(indent=2) + "\n"


def loads(text: str) -> Transcript:
    """Read what `dumps` wrote."""
    try:
        return Transcript.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TranscriptFormatError(
            f"This is no transcript in JSON: {where + ': ' if where else ''}{first['msg']}.",
            fix="use a file written with format json by this version or an older one.",
        ) from error
