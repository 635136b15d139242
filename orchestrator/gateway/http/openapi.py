"""What the OpenAPI document says beyond what FastAPI can see: the form, the answers, the errors."""

from __future__ import annotations

from typing import Any, Final

from orchestrator.gateway.http.fields import MAX_SPEAKERS, RESPONSE_FORMATS

_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_MEANINGS: Final = {
    400: "A field or the recording cannot be used; `param` names it",
    401: "No valid API key",
    404: "There is no such model or path",
    405: "The path does not take this method",
    408: "The body did not arrive in time",
    413: "The recording is too large or too long",
    415: "The body is no multipart form",
    429: "Too much work; try again after Retry-After",
    501: "Not possible with the engines of this server",
    502: "Triton failed on the request",
    503: "Triton is not ready, or the gateway is stopping; try again after Retry-After",
    504: "Triton did not answer in time",
}
_FIELDS: Final[dict[str, dict[str, Any]]] = {
    "file": {
        "type": "string",
        "format": "binary",
        "description": "The recording: audio, or video with sound.",
    },
    "model": {
        "type": "string",
        "description": "auto, an engine, a model, or one of OpenAI's names, which mean auto.",
    },
    "language": {"type": "string", "description": "BCP-47 tag, such as en or de-CH."},
    "response_format": {"type": "string", "enum": list(RESPONSE_FORMATS), "default": "json"},
    "timestamp_granularities[]": {
        "type": "array",
        "items": {"type": "string", "enum": ["word", "segment"]},
        "description": "Of verbose_json; with diarized_json, word gives each segment its words.",
    },
    "stream": {"type": "boolean", "default": False, "description": "Answer as server-sent events."},
    "temperature": {"type": "number", "enum": [0]},
    "chunking_strategy": {"type": "string", "enum": ["auto"]},
    "num_speakers": {
        "type": "integer",
        "minimum": 1,
        "maximum": MAX_SPEAKERS,
        "description": "How many speakers there are; of srt, vtt and diarized_json.",
    },
}

TRANSCRIPTION_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "anyOf": [{"required": ["model"]}, {"required": ["language"]}],
                    "properties": _FIELDS,
                    "additionalProperties": False,
                }
            }
        },
    }
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of an operation that may answer with these errors."""
    content = {"application/json": {"schema": _ERROR}}
    return {status: {"description": _MEANINGS[status], "content": content} for status in statuses}


_TRANSCRIPT: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["text", "usage"],
    "properties": {"text": {"type": "string"}, "usage": {"type": "object"}},
}
_EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string", "description": "JSON: transcript.text.delta, ... .done"}},
}
TRANSCRIPTION_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The transcript, in the format asked for",
        "content": {
            "application/json": {"schema": _TRANSCRIPT},
            **{
                media_type: {"schema": {"type": "string"}}
                for media_type in ("text/plain", "text/vtt", "application/x-subrip")
            },
            "text/event-stream": {"schema": _EVENT},
        },
    },
    **errors(400, 401, 404, 408, 413, 415, 429, 502, 503, 504),
}
