"""How an error of this project crosses the wire: text that Triton carries and the client reads back.

Triton gives a failed request one string and one status code. The string here is a fixed prefix and one JSON
object, so that the client raises the class that arose on the server, with its message and its fix. Triton may
put text of its own around it; `decode` finds it anywhere in the message. Imports nothing heavy: both sides
use this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from orchestrator.errors import InferenceError, RemoteInferenceError, SpeechError

PREFIX: Final = "SPEECH_ERROR "
_MAX_TEXT: Final = 500
"""Characters kept of a message or a fix: gRPC carries the status in a header, which servers and proxies cap
at about 8 KiB."""


def encode(error: SpeechError) -> str:
    """The error as one line: ``SPEECH_ERROR {"error": ..., "message": ..., "fix": ..., "model": ...}``.

    The server's host and paths stay behind: the client knows its host, and paths there mean nothing here. An
    `InferenceError` becomes `RemoteInferenceError`, which is what it is to the one who reads it.
    """
    kind = RemoteInferenceError if type(error) is InferenceError else type(error)
    fields = {
        "error": kind.__name__,
        "message": error.message[:_MAX_TEXT],
        "fix": None if error.fix is None else error.fix[:_MAX_TEXT],
        "model": error.model,
    }
    return PREFIX + json.dumps({key: value for key, value in fields.items() if value is not None})


def decode(message: str, *, host: str | None = None, model: str | None = None) -> SpeechError | None:
    """The error that `encode` wrote, or None where ``message`` carries none (or a damaged one).

    ``host`` and ``model`` complete what the server did not say. A class this version does not know, as a
    newer server may send, becomes `RemoteInferenceError`.
    """
    _, found, text = message.partition(PREFIX)
    if not found:
        return None
    try:
        fields, _ = json.JSONDecoder().raw_decode(text.lstrip())
    except json.JSONDecodeError:
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("message"), str):
        return None
    fix, named = fields.get("fix"), fields.get("model")
    return _class_named(fields.get("error"))(
        fields["message"],
        fix=fix if isinstance(fix, str) else None,
        host=host,
        model=named if isinstance(named, str) else model,
    )


def _class_named(name: object) -> type[SpeechError]:
    for known in _family(SpeechError):
        if known.__name__ == name:
            return known
    return RemoteInferenceError


def _family(root: type[SpeechError]) -> Iterator[type[SpeechError]]:
    yield root
    for child in root.__subclasses__():
        yield from _family(child)
