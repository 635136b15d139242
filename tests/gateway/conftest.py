"""The HTTP application over a service that only remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestrator.client.catalog import ModelCard
from orchestrator.contract import Task
from orchestrator.errors import SpeechError
from orchestrator.gateway.admission import Admission
from orchestrator.gateway.http.app import create_app
from orchestrator.gateway.http.state import Shared
from orchestrator.gateway.keys import ApiKeys
from orchestrator.gateway.metrics import GatewayMetrics
from orchestrator.gateway.service import Job
from orchestrator.settings import GatewaySettings
from orchestrator.transcript.models import Segment, Transcript, Turn, Word

PATH = "/v1/audio/transcriptions"
RECORDING = b"RIFF, or so it says"
TRANSCRIPT = Transcript(
    source="meeting.wav",
    duration=4.0,
    language="en",
    engine="parrot",
    segments=(
        Segment(
            start=0.5,
            end=1.5,
            text="Good morning.",
            speaker="Speaker 1",
            words=(
                Word(text="Good", start=0.5, end=0.9, confidence=0.5, speaker="Speaker 1"),
                Word(text="morning.", start=1.0, end=1.5, confidence=1.0, speaker="Speaker 1"),
            ),
        ),
        Segment(
            start=2.0,
            end=2.6,
            text="Hello.",
            words=(Word(text="Hello.", start=2.0, end=2.6, confidence=0.8),),
        ),
    ),
    turns=(Turn(start=0.4, end=1.6, speaker="Speaker 1"),),
)
CARDS = (
    ModelCard("diarizer", True, ("1",), task=Task.DIARIZE, rank=1),
    ModelCard("echo", True, ("1",), task=Task.RECOGNIZE, engine="parrot", languages=("en", "de"), rank=10),
    ModelCard("asleep", False, state="UNAVAILABLE", reason="no weights"),
)


@dataclass
class FakeService:
    """A `SpeechService`; ``error`` is raised, ``hold`` is waited for before answering."""

    transcript: Transcript = TRANSCRIPT
    cards: tuple[ModelCard, ...] = CARDS
    error: SpeechError | None = None
    unready: SpeechError | None = None
    hold: asyncio.Event | None = None
    asked: list[tuple[str, bytes, Job]] = field(default_factory=list)
    cancelled: int = 0

    async def models(self) -> tuple[ModelCard, ...]:
        if self.unready is not None:
            raise self.unready
        return self.cards

    async def check_ready(self) -> None:
        if self.unready is not None:
            raise self.unready

    async def transcribe(self, recording: Path, job: Job) -> Transcript:
        self.asked.append((recording.name, recording.read_bytes(), job))
        try:
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return self.transcript

    async def close(self) -> None:
        pass

    @property
    def job(self) -> Job:
        """What was asked last."""
        return self.asked[-1][2]


@dataclass
class Gateway:
    """An application and what is behind it."""

    app: Any
    shared: Shared
    service: FakeService

    @property
    def uploads(self) -> list[Path]:
        """What is left of uploads."""
        return list(self.shared.spool.iterdir())


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Gateway]:
    """Make a gateway with some of its settings."""

    def make_gateway(**settings: Any) -> Gateway:
        spool = tmp_path / "spool"
        spool.mkdir(exist_ok=True)
        chosen = GatewaySettings(**settings)
        service = FakeService()
        admission = Admission(chosen.max_requests)
        streams = Admission(chosen.max_streams, "streams")
        metrics = GatewayMetrics(lambda: admission.running, lambda: streams.running)
        keys = ApiKeys.of(chosen)
        shared = Shared(chosen, service, admission, metrics, spool, streams, keys)
        return Gateway(create_app(shared), shared, service)

    return make_gateway


@pytest.fixture
def gateway(make: Callable[..., Gateway]) -> Gateway:
    return make()


@pytest.fixture
def http(gateway: Gateway) -> Iterator[TestClient]:
    with TestClient(gateway.app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def post(http: TestClient) -> Callable[..., Any]:
    """Send a recording with some fields; ``model=auto`` unless they say otherwise."""

    def send(fields: dict[str, Any] | None = None, **more: Any) -> Any:
        files = more.pop("files", {"file": ("meeting.wav", RECORDING, "audio/wav")})
        return http.post(PATH, data={"model": "auto"} if fields is None else fields, files=files, **more)

    return send


@dataclass
class Reply:
    """What an application sent; ``body`` grows while it runs."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def call(
    app: Any,
    chunks: AsyncIterator[bytes],
    content_type: str,
    gone: asyncio.Event,
    reply: Reply,
    **headers: str,
) -> None:
    """POST a body that arrives piece by piece; the client goes away when ``gone`` is set."""
    given = [(b"content-type", content_type.encode())]
    given += [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "path": PATH,
        "raw_path": PATH.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": given,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    ended = False

    async def next_chunk() -> bytes | None:
        return await anext(chunks, None)

    async def receive() -> dict[str, Any]:
        nonlocal ended
        if not ended:
            piece = asyncio.ensure_future(next_chunk())
            leaving = asyncio.ensure_future(gone.wait())
            try:
                await asyncio.wait({piece, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if piece.done():
                    chunk = piece.result()
                    ended = chunk is None
                    return {"type": "http.request", "body": chunk or b"", "more_body": not ended}
            finally:
                piece.cancel()
                leaving.cancel()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            reply.body += message.get("body", b"")

    await app(scope, receive, send)


BOUNDARY = "gggg"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def multipart(
    fields: dict[str, str], recording: bytes | None = RECORDING, name: str = "meeting.wav"
) -> bytes:
    """A form."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    if recording is not None:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        parts.append(head.encode() + recording + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


@pytest.fixture
def tools() -> Any:
    """What tests build bodies and calls with."""
    from types import SimpleNamespace

    return SimpleNamespace(
        PATH=PATH,
        RECORDING=RECORDING,
        TRANSCRIPT=TRANSCRIPT,
        CONTENT_TYPE=CONTENT_TYPE,
        BOUNDARY=BOUNDARY,
        Reply=Reply,
        call=call,
        multipart=multipart,
    )
