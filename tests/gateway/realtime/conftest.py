"""The application with a recogniser that hears a word every tenth of a second."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient, WebSocketTestSession

from orchestrator.gateway.admission import Admission
from orchestrator.gateway.http.app import create_app
from orchestrator.gateway.http.state import Shared
from orchestrator.gateway.keys import ApiKeys
from orchestrator.gateway.metrics import GatewayMetrics
from orchestrator.settings import GatewaySettings
from tests.gateway.riva.conftest import FakeService

PATH = "/v1/realtime?intent=transcription"
NIM = "transcription_session.update"
TRANSCRIPTION = "conversation.item.input_audio_transcription"


class Socket:
    """A connection, in events."""

    def __init__(self, session: WebSocketTestSession) -> None:
        self.session = session

    def send(self, kind: str, **fields: Any) -> None:
        self.session.send_text(json.dumps({"type": kind, **fields}))

    def hear(self, samples: int, commit: bool = True, **fields: Any) -> None:
        """Audio of so many samples of 16-bit PCM."""
        self.send_bytes(bytes(2 * samples), commit, **fields)

    def send_bytes(self, data: bytes, commit: bool = True, **fields: Any) -> None:
        self.send("input_audio_buffer.append", audio=base64.b64encode(data).decode(), **fields)
        if commit:
            self.send("input_audio_buffer.commit")

    def next(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.session.receive_text())
        assert event["event_id"].startswith("event_")
        return event

    def until(self, kind: str) -> list[dict[str, Any]]:
        """All events up to the first of ``kind``."""
        events = [self.next()]
        while events[-1]["type"] != kind:
            assert events[-1]["type"] != "error", events[-1]
            events.append(self.next())
        return events

    def until_last(self) -> list[dict[str, Any]]:
        """All events up to the last result."""
        events = [self.next()]
        while not events[-1].get("is_last_result"):
            assert events[-1]["type"] != "error", events[-1]
            events.append(self.next())
        return events

    def refused(self, code: str | None = None) -> dict[str, Any]:
        """The error that is next."""
        event = self.next()
        assert event["type"] == "error", event
        assert set(event["error"]) == {"type", "code", "message", "param", "event_id"}
        if code is not None:
            assert event["error"]["code"] == code, event
        error: dict[str, Any] = event["error"]
        return error

    def leave(self) -> None:
        """Close, as clients that are done do."""
        self.session.close(1000)

    def closed(self) -> int:
        """The close code that is next."""
        message = self.session.receive()
        assert message["type"] == "websocket.close", message
        return int(message["code"])

    def update(self, **session: Any) -> dict[str, Any]:
        """Set the session up as NIM's clients do."""
        self.send(NIM, session=session)
        event = self.next()
        assert event["type"] == "transcription_session.updated", event
        shown: dict[str, Any] = event["session"]
        return shown

    def update_openai(self, **session: Any) -> dict[str, Any]:
        """Set the session up as OpenAI's clients do."""
        self.send("session.update", session={"type": "transcription"} | session)
        event = self.next()
        assert event["type"] == "session.updated", event
        shown: dict[str, Any] = event["session"]
        return shown


@dataclass
class Realtime:
    """The application, what is behind it, and a way in."""

    client: TestClient
    shared: Shared
    service: FakeService
    stack: ExitStack

    def settle(self, logged: Sequence[Any] = ("",)) -> None:
        """Wait until no stream is open, and something has been logged."""
        deadline = time.monotonic() + 60
        while self.shared.streams.running or not logged:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def connect(
        self, path: str = PATH, greeting: Sequence[str] = ("conversation.created",), **more: Any
    ) -> Socket:
        socket = Socket(self.stack.enter_context(self.client.websocket_connect(path, **more)))
        for kind in greeting:
            assert socket.next()["type"] == kind
        return socket


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Realtime]]:
    """Make an application with some of its settings."""
    with ExitStack() as stack:
        made: list[Realtime] = []

        def make(**settings: Any) -> Realtime:
            chosen = GatewaySettings(**settings)
            requests, streams = Admission(chosen.max_requests), Admission(chosen.max_streams, "streams")
            metrics = GatewayMetrics(lambda: requests.running, lambda: streams.running)
            service = FakeService()
            shared = Shared(chosen, service, requests, metrics, tmp_path, streams, ApiKeys.of(chosen))
            client = stack.enter_context(TestClient(create_app(shared)))
            made.append(Realtime(client, shared, service, stack.enter_context(ExitStack())))
            return made[-1]

        yield make
        for each in made:
            each.stack.close()
            assert each.shared.streams.running == 0
            assert all(live.closed for live in each.service.lives)


@pytest.fixture
def realtime(serve: Callable[..., Realtime]) -> Realtime:
    return serve()


@pytest.fixture
def nim(realtime: Realtime) -> Socket:
    """A connection that has been set up as NIM's clients do."""
    socket = realtime.connect()
    socket.update(recognition_config={"enable_verbatim_transcripts": True})
    return socket
