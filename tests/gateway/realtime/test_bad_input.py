"""What clients should not do: each an error event or a close code, and nothing is left of them."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import (
    ModelNotFoundError,
    OverloadedError,
    RemoteInferenceError,
    ServerUnavailableError,
    SpeechError,
    StreamLimitError,
    UnsupportedLanguageError,
)
from orchestrator.gateway.realtime import messages
from orchestrator.gateway.realtime.events import EventError, text_of
from orchestrator.gateway.realtime.fields import Recognition, SessionFields
from orchestrator.gateway.realtime.session import Session

STEP = 1600
COMPLETED = "conversation.item.input_audio_transcription.completed"
APPEND = "input_audio_buffer.append"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("null", "invalid_json"),
        ('["type"]', "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ('{"type": NaN}', "invalid_json"),
        ('{"type": ' + "9" * 5000 + "}", "invalid_json"),
        ("{}", "invalid_event"),
        ('{"type": 3}', "invalid_event"),
        ('{"type": "response.create"}', "unknown_event"),
        (json.dumps({"type": "\ud800" * 1000}), "unknown_event"),
        ('{"type": "input_audio_buffer.commit", "audio": "AAAA"}', "unknown_parameter"),
        ('{"type": "input_audio_buffer.append"}', "invalid_audio"),
        ('{"type": "input_audio_buffer.append", "audio": 7}', "invalid_audio"),
        ('{"type": "input_audio_buffer.append", "audio": "AAA"}', "invalid_audio"),
        ('{"type": "input_audio_buffer.append", "audio": "A AA"}', "invalid_audio"),
        ('{"type": "input_audio_buffer.append", "audio": "äöü!"}', "invalid_audio"),
        (
            '{"type": "input_audio_buffer.append", "audio": "", "runtime_config": {"force_eou": true}}',
            "invalid_value",
        ),
        (
            '{"type": "input_audio_buffer.append", "audio": "", "runtime_config": {"volume": "11"}}',
            "invalid_value",
        ),
        ('{"type": "transcription_session.update"}', "invalid_value"),
        ('{"type": "transcription_session.update", "session": [1]}', "invalid_value"),
    ],
)
def test_a_wrong_message_is_refused_and_the_session_goes_on(nim: Any, text: str, code: str) -> None:
    nim.session.send_text(text)
    nim.refused(code)
    nim.hear(STEP, commit=False)
    nim.send("input_audio_buffer.done")
    assert nim.until_last()[-1]["transcript"] == "one "


def test_binary_messages(nim: Any) -> None:
    nim.session.send_bytes(bytes(3200))
    nim.refused("invalid_event")
    nim.update()


@pytest.mark.parametrize("kind", [APPEND, "input_audio_buffer.commit", "input_audio_buffer.done"])
def test_audio_before_the_session_is_set_up(realtime: Any, kind: str) -> None:
    socket = realtime.connect()
    socket.send(kind, **({"audio": "AAAA"} if kind == APPEND else {}), event_id="e1")
    error = socket.refused("session_not_updated")
    assert error["event_id"] == "e1"
    socket.update()


def test_half_a_sample_at_the_end_loses_nothing(nim: Any) -> None:
    nim.send_bytes(bytes(2 * STEP + 1), commit=False)
    nim.send("input_audio_buffer.done")
    assert nim.until_last()[-1]["transcript"] == "one "
    assert nim.refused("invalid_audio")["param"] == "audio"
    assert nim.closed() == 1008


@pytest.mark.parametrize(
    "data",
    [b"these bytes have no header at all", b"RIFF\x00\x00\x00\x00WAVEjunk" + bytes(100), b"fLaC" + bytes(99)],
)
def test_files_that_are_none(realtime: Any, data: bytes) -> None:
    socket = realtime.connect()
    socket.update(input_audio_format="none")
    socket.send_bytes(data, commit=False)
    socket.send("input_audio_buffer.done")
    event = socket.next()
    while event["type"] != "error":
        event = socket.next()
    assert event["error"]["code"] == "invalid_audio"
    assert socket.closed() == 1008


def test_a_client_that_sends_nothing_right(realtime: Any) -> None:
    socket = realtime.connect()
    for _ in range(100):
        socket.session.send_text("?")
        socket.refused("invalid_json")
    socket.refused("too_many_errors")
    assert socket.closed() == 1008


def test_silence_ends_the_connection(serve: Callable[..., Any]) -> None:
    realtime = serve(stream_idle_timeout_s=5)  # the update has to come in time
    socket = realtime.connect()
    socket.update()
    assert "sent nothing" in socket.refused("timeout")["message"]
    assert socket.closed() == 1011


def test_a_client_that_goes_ends_its_stream(nim: Any, realtime: Any) -> None:
    """Also while the recogniser is busy with what it sent."""
    realtime.service.hold = threading.Event()
    nim.hear(STEP)
    while not realtime.service.waiting:
        threading.Event().wait(0.005)
    nim.leave()
    realtime.settle()
    assert realtime.service.cancelled == 1
    assert realtime.service.lives[0].closed


@pytest.mark.parametrize(
    ("error", "code", "close"),
    [
        (ServerUnavailableError("It is gone."), "server_unavailable", 1011),
        (StreamLimitError("It is full."), "overloaded", 1013),
        (OverloadedError("It is full."), "overloaded", 1013),
        (ModelNotFoundError("There is none."), "model_not_ready", 1013),
        (ModelNotFoundError("There is no such model.", model="x"), "model_not_found", 1008),
        (UnsupportedLanguageError("Not that one."), "unsupported_language", 1008),
        (RemoteInferenceError("It broke."), "upstream_failed", 1011),
    ],
)
def test_what_the_upstream_cannot_do(
    nim: Any, realtime: Any, error: SpeechError, code: str, close: int
) -> None:
    realtime.service.error = error
    nim.hear(STEP)
    assert error.message in nim.refused(code)["message"]
    assert nim.closed() == close


def test_streams_that_must_end_are_told(nim: Any, realtime: Any) -> None:
    nim.hear(STEP)
    nim.until("input_audio_buffer.committed")
    loop = realtime.client.portal
    loop.call(realtime.shared.streams.drain, 0.0)
    assert "stopping" in nim.refused("server_unavailable")["message"]
    assert nim.closed() == 1012


def test_profanity_without_a_list_of_the_language(realtime: Any) -> None:
    realtime.service.language = "eu"
    socket = realtime.connect()
    socket.update(recognition_config={"enable_profanity_filter": True})
    socket.hear(STEP)
    assert socket.refused("unsupported_parameter")["param"] == "profanity_filter"
    assert socket.closed() == 1008


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_KINDS = st.sampled_from(
    (messages.UPDATE_FLAT, messages.UPDATE_NESTED, APPEND, "input_audio_buffer.clear", "x")
)
_FIELDS = st.sampled_from(
    (*SessionFields.model_fields, *Recognition.model_fields, "session", "audio", "type", "input", "format")
)
_EVENTS = st.builds(
    lambda kind, fields: {**fields, "type": kind},
    _KINDS,
    st.dictionaries(_FIELDS, st.dictionaries(_FIELDS, _JSON, max_size=2) | _JSON, max_size=3),
)


@given(_EVENTS | _JSON)
@settings(max_examples=300, deadline=None)
def test_any_json_is_taken_or_refused(event: Any) -> None:
    """Nothing but a refusal is raised, and a session that took an update can still be shown and used."""
    session = Session()
    with suppress(EventError):
        asked = messages.check(messages.read(json.dumps(event)))
        messages.forced(asked)
        session.update(asked.fields.get("session"))
        json.loads(text_of({**session.flat(), **session.nested()}))
        assert session.setup().ask.model


@given(st.text() | st.binary().map(lambda data: base64.b64encode(data).decode()))
def test_any_text_is_audio_or_refused(text: str) -> None:
    with suppress(EventError):
        data = messages.audio_of(messages.ClientEvent(APPEND, {"audio": text}))
        assert len(base64.b64encode(data)) == len(text)
