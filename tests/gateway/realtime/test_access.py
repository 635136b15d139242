"""Who may open a WebSocket, and how many may be open."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import WebSocketDenialResponse

from orchestrator.gateway.realtime.inbox import Inbox
from orchestrator.gateway.realtime.secrets import ClientSecrets

KEY = "open-sesame"
HASH = hashlib.sha256(KEY.encode()).hexdigest()
SESSIONS = "/v1/realtime/transcription_sessions"
BEARER = {"Authorization": f"Bearer {KEY}"}
OPENAI = ("session.created", "conversation.created")


@pytest.fixture
def locked(serve: Callable[..., Any]) -> Any:
    return serve(api_key_hashes=(HASH,))


def denied(realtime: Any, **more: Any) -> Any:
    """The answer to a handshake that is refused."""
    with pytest.raises(WebSocketDenialResponse) as caught:
        realtime.connect(**more)
    return caught.value


def test_a_key_in_the_header(locked: Any) -> None:
    locked.connect(headers=BEARER)


def test_a_key_as_a_subprotocol(locked: Any) -> None:
    """OpenAI's way for browsers; the answer does not repeat the key."""
    offered = ["realtime", f"openai-insecure-api-key.{KEY}", "openai-beta.realtime-v1"]
    socket = locked.connect(greeting=OPENAI, subprotocols=offered)
    assert socket.session.accepted_subprotocol == "realtime"
    alone = locked.connect(greeting=OPENAI, subprotocols=offered[1:2])
    assert alone.session.accepted_subprotocol is None


def test_a_secret_for_the_key(locked: Any) -> None:
    """NIM's way: the key with the request for a session, the secret with the WebSocket."""
    secret = locked.client.post(SESSIONS, json={}, headers=BEARER).json()["client_secret"]
    assert 0 < secret["expires_at"] - time.time() <= 60
    socket = locked.connect(subprotocols=["realtime", f"realtime-token.{secret['value']}"])
    assert socket.session.accepted_subprotocol == "realtime"


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"headers": {"Authorization": "Bearer guess"}},
        {"headers": {"Authorization": f"Basic {KEY}"}},
        {"headers": {"Authorization": "Bearer"}},
        {"subprotocols": ["openai-insecure-api-key.guess"]},
        {"subprotocols": ["openai-insecure-api-key."]},
        {"subprotocols": ["realtime-token.ek_1.2.3"]},
        {"subprotocols": ["realtime-token."]},
        {"subprotocols": ["realtime-token." + "." * 50]},
    ],
)
def test_strangers(locked: Any, more: dict[str, Any]) -> None:
    answer = denied(locked, **more)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert locked.client.post(SESSIONS, json={}).status_code == 401


def test_strangers_are_counted(locked: Any) -> None:
    denied(locked)
    text = locked.shared.metrics.text().decode()
    assert 'requests_total{method="websocket",route="/v1/realtime",status="401"} 1.0' in text
    assert 'errors_total{kind="invalid_api_key"} 1.0' in text


def test_limits_of_a_key_hold_for_its_secrets(serve: Callable[..., Any]) -> None:
    realtime = serve(keys={"ada": {"sha256": HASH, "max_streams": 1}})
    secret = realtime.client.post(SESSIONS, json={}, headers=BEARER).json()["client_secret"]["value"]
    first = realtime.connect(subprotocols=[f"realtime-token.{secret}"])
    assert denied(realtime, headers=BEARER).status_code == 429
    assert denied(realtime, subprotocols=[f"realtime-token.{secret}"]).status_code == 429
    first.leave()
    realtime.settle()
    realtime.connect(headers=BEARER)


def test_secrets_end() -> None:
    ours, old = ClientSecrets("k"), ClientSecrets("k", life_s=-1)
    value = ours.mint("ada")["value"]
    assert ours.caller(value) == "ada"
    assert ClientSecrets("k").caller(value) == "ada", "another worker knows it"
    assert ClientSecrets().caller(value) is None, "another gateway does not"
    assert ours.caller(old.mint("ada")["value"]) is None
    assert ours.caller(value.replace("ek_1", "ek_2")) is None
    assert ours.caller("ek_\udc80.x.y.z") is None


def test_other_intents(realtime: Any) -> None:
    answer = denied(realtime, path="/v1/realtime?intent=conversation")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "intent"
    realtime.connect(path="/v1/realtime")


def test_origins(serve: Callable[..., Any]) -> None:
    """Browsers let any page connect to any host, and do not show it a status."""
    realtime = serve(cors_origins=("https://friend.example",))
    for origin in ("http://testserver", "https://testserver", "https://friend.example"):
        realtime.connect(headers={"Origin": origin})
    for origin in ("https://evil.example", "null", "http://testserver.evil.example", "http://[", "file://"):
        socket = realtime.connect(greeting=(), headers={"Origin": origin})
        socket.refused("origin_not_allowed")
        assert socket.closed() == 1008


def test_one_more_than_there_may_be(serve: Callable[..., Any]) -> None:
    realtime = serve(max_streams=1)
    first = realtime.connect()
    answer = denied(realtime)
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
    page = realtime.connect(greeting=(), headers={"Origin": "http://testserver"})
    page.refused("overloaded")
    assert page.closed() == 1013
    first.leave()
    realtime.settle()
    realtime.connect()


def test_a_gateway_that_stops(realtime: Any) -> None:
    realtime.connect()  # so that there is a loop
    realtime.client.portal.call(realtime.shared.streams.drain, 60.0)
    assert denied(realtime).status_code == 503
    page = realtime.connect(greeting=(), headers={"Origin": "http://testserver"})
    page.refused("server_unavailable")
    assert page.closed() == 1012


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"\xff", 400, "invalid_json"),
        (b"[1]", 400, "invalid_json"),
        (b'{"colour": "red"}', 400, "unknown_parameter"),
        (b'{"type": "realtime"}', 400, "unsupported_parameter"),
        (b" " * 100_000, 413, "session_too_large"),
    ],
)
def test_sessions_that_cannot_be(realtime: Any, body: bytes, status: int, code: str) -> None:
    answer = realtime.client.post(SESSIONS, content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_client_that_sends_too_fast_waits() -> None:
    """The inbox is read until it is full, and again when there is room."""
    sent = 0

    async def receive() -> dict[str, Any]:
        nonlocal sent
        sent += 1
        if sent > 20:
            return {"type": "websocket.disconnect", "code": 1000}
        return {"type": "websocket.receive", "text": "x" * 100}

    async def scene() -> None:
        inbox = Inbox(receive, most_waiting=500)
        reading = asyncio.create_task(inbox.read())
        for _ in range(5):
            await asyncio.sleep(0)
        assert sent == 6
        assert await inbox.next() == "x" * 100
        await asyncio.sleep(0)
        assert sent == 7
        for _ in range(19):
            await inbox.next()
        assert await reading == 1000

    asyncio.run(asyncio.wait_for(scene(), 60))
