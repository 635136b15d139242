"""What clients send, checked: one JSON object a message, with audio in base64."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from orchestrator.gateway.realtime.events import EventError
from orchestrator.gateway.riva.errors import RpcError
from orchestrator.gateway.riva.streaming import runtime_options

UPDATE_FLAT: Final = "transcription_session.update"
UPDATE_NESTED: Final = "session.update"
APPEND: Final = "input_audio_buffer.append"
COMMIT: Final = "input_audio_buffer.commit"
CLEAR: Final = "input_audio_buffer.clear"
DONE: Final = "input_audio_buffer.done"
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    UPDATE_FLAT: ("session",),
    UPDATE_NESTED: ("session",),
    APPEND: ("audio", "runtime_config"),
    COMMIT: (),
    CLEAR: (),
    DONE: (),
}
_LONGEST_SHOWN: Final = 64


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """One event.

    Attributes:
        kind: its type, one of those that there are.
        fields: its fields but ``type`` and ``event_id``.
    """

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def read(text: str) -> dict[str, Any]:
    """The object of one message.

    Raises:
        EventError: it is none.
    """
    try:
        data = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise EventError("The message is not valid JSON.", "invalid_json") from error
    if not isinstance(data, dict):
        raise EventError("The message must be a JSON object.", "invalid_json")
    return data


def event_id(data: Mapping[str, Any]) -> str | None:
    """What the client calls its event, where it does."""
    given = data.get("event_id")
    return given if isinstance(given, str) else None


def check(data: Mapping[str, Any]) -> ClientEvent:
    """The event in ``data``.

    Raises:
        EventError: there is no such event, or it does not have such fields.
    """
    kind = data.get("type")
    if not isinstance(kind, str):
        raise EventError("type: it must be the name of an event.", "invalid_event", "type")
    if kind not in _FIELDS:
        shown = kind[:_LONGEST_SHOWN]
        raise EventError(
            f"type: there is no event {shown!r} here; there are {', '.join(_FIELDS)}.",
            "unknown_event",
            "type",
        )
    fields = {name: value for name, value in data.items() if name not in ("type", "event_id")}
    for name in fields:
        if name not in _FIELDS[kind]:
            shown = name[:_LONGEST_SHOWN]
            raise EventError(f"{shown}: {kind} has no such field.", "unknown_parameter", shown)
    return ClientEvent(kind, fields)


def audio_of(event: ClientEvent) -> bytes:
    """The bytes of an ``append``.

    Raises:
        EventError: there are none, or they are no base64.
    """
    audio = event.fields.get("audio")
    if not isinstance(audio, str):
        raise EventError("audio: it must be text in base64.", "invalid_audio", "audio")
    try:
        return base64.b64decode(audio, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EventError("audio: it is no valid base64.", "invalid_audio", "audio") from error


def forced(event: ClientEvent) -> bool:
    """Whether the utterance is to end with the audio of an ``append``.

    Raises:
        EventError: ``runtime_config`` holds something else.
    """
    given = event.fields.get("runtime_config")
    if given is None:
        return False
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise EventError("runtime_config: its values must be text.", param="runtime_config")
    try:
        return runtime_options(given)
    except RpcError as error:
        raise EventError(error.message, param="runtime_config") from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
