"""Clients that go away, too many of them, and the end of the gateway: on an event loop, without a socket."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from orchestrator.errors import AudioDecodeError, OverloadedError, ServerUnavailableError
from orchestrator.gateway.admission import Admission
from orchestrator.gateway.http import audio, sse


async def whole(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


class Client:
    """One request to an application; leaves when told."""

    def __init__(
        self, gateway: Any, tools: Any, fields: dict[str, str] | None = None, **headers: str
    ) -> None:
        self.reply = tools.Reply()
        self.gone = asyncio.Event()
        self.headers = headers
        body = tools.multipart({"model": "auto"} | (fields or {}))
        self._send(gateway, tools, whole(body))

    def _send(self, gateway: Any, tools: Any, chunks: AsyncIterator[bytes]) -> None:
        call: Coroutine[Any, Any, None] = tools.call(
            gateway.app, chunks, tools.CONTENT_TYPE, self.gone, self.reply, **self.headers
        )
        self.task = asyncio.create_task(call)


class Uploader(Client):
    """One whose upload never ends."""

    def _send(self, gateway: Any, tools: Any, chunks: AsyncIterator[bytes]) -> None:
        async def endless() -> AsyncIterator[bytes]:
            yield tools.multipart({}).partition(b"--gggg--")[0]
            await asyncio.Event().wait()

        super()._send(gateway, tools, endless())


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_client_that_goes_cancels_its_work(gateway: Any, tools: Any, stream: str) -> None:
    async def scene() -> None:
        gateway.service.hold = asyncio.Event()
        client = Client(gateway, tools, {"stream": stream})
        await until(lambda: gateway.service.asked)
        assert gateway.shared.admission.running == 1
        client.gone.set()
        await client.task

    asyncio.run(scene())
    assert gateway.service.cancelled == 1
    assert gateway.shared.admission.running == 0
    assert gateway.uploads == []
    assert b'kind="client_closed"' in gateway.shared.metrics.text()
    assert b'status="499"' in gateway.shared.metrics.text()


def test_a_client_that_goes_while_it_sends(gateway: Any, tools: Any) -> None:
    async def scene() -> None:
        client = Uploader(gateway, tools)
        await until(lambda: gateway.uploads)
        client.gone.set()
        await client.task

    asyncio.run(scene())
    assert gateway.service.asked == []
    assert gateway.uploads == []
    assert gateway.shared.admission.running == 0


def test_a_request_that_is_cancelled_leaves_nothing(gateway: Any, tools: Any) -> None:
    async def scene() -> None:
        gateway.service.hold = asyncio.Event()
        client = Client(gateway, tools)
        await until(lambda: gateway.service.asked)
        client.task.cancel()
        await asyncio.wait({client.task})

    asyncio.run(scene())
    assert gateway.service.cancelled == 1
    assert gateway.uploads == []
    assert gateway.shared.admission.running == 0


def test_more_requests_than_places(make: Callable[..., Any], tools: Any) -> None:
    """The third is refused at once, the two that were let in finish, and then there is room again."""
    gateway = make(max_requests=2)

    async def scene() -> None:
        gateway.service.hold = asyncio.Event()
        working = [Client(gateway, tools), Uploader(gateway, tools)]
        await until(lambda: gateway.shared.admission.running == 2)
        refused = Client(gateway, tools)
        await refused.task
        assert refused.reply.status == 429
        assert refused.reply.json["error"]["type"] == "rate_limit_error"
        assert int(refused.reply.headers["retry-after"]) >= 1
        gateway.service.hold.set()
        await working[0].task
        assert working[0].reply.status == 200
        again = Client(gateway, tools)
        await again.task
        assert again.reply.status == 200
        working[1].gone.set()
        await working[1].task

    asyncio.run(scene())
    assert gateway.shared.admission.running == 0


def test_each_key_has_its_places(make: Callable[..., Any], tools: Any) -> None:
    """A key that has all its places taken is refused; others go on."""

    def hashed(key: str) -> str:
        return hashlib.sha256(key.encode()).hexdigest()

    keys = {"ada": {"sha256": hashed("a"), "max_requests": 1}, "bob": {"sha256": hashed("b")}}
    gateway = make(keys=keys, api_key_hashes=[hashed("free")])

    async def scene() -> None:
        gateway.service.hold = asyncio.Event()

        def ask(key: str) -> Client:
            return Client(gateway, tools, authorization=f"Bearer {key}")

        working = [ask("a"), ask("b"), ask("b"), ask("free")]
        await until(lambda: len(gateway.service.asked) == 4)
        refused = ask("a")
        await refused.task
        assert refused.reply.status == 429
        assert int(refused.reply.headers["retry-after"]) >= 1
        assert "of the key 'ada'" in refused.reply.json["error"]["message"]
        stranger = ask("c")
        await stranger.task
        assert stranger.reply.status == 401
        gateway.service.hold.set()
        for client in working:
            await client.task
            assert client.reply.status == 200
        again = ask("a")
        await again.task
        assert again.reply.status == 200

    asyncio.run(scene())
    assert gateway.shared.admission.running == 0


def test_the_end_lets_running_requests_finish(gateway: Any, tools: Any) -> None:
    async def scene() -> None:
        gateway.service.hold = asyncio.Event()
        running = Client(gateway, tools)
        await until(lambda: gateway.service.asked)
        gateway.shared.admission.drain(60)
        late = Client(gateway, tools)
        await late.task
        assert late.reply.status == 503
        assert "stopping" in late.reply.json["error"]["message"]
        gateway.service.hold.set()
        await running.task
        assert running.reply.status == 200

    asyncio.run(scene())


@pytest.mark.parametrize("stream", ["false", "true"])
def test_who_is_not_done_at_the_end_is_told(gateway: Any, tools: Any, stream: str) -> None:
    async def scene() -> None:
        gateway.service.hold = asyncio.Event()
        running = Client(gateway, tools, {"stream": stream})
        await until(lambda: gateway.service.asked)
        gateway.shared.admission.drain(0.01)
        await running.task
        assert running.reply.status == 503
        assert running.reply.json["error"]["code"] == "server_unavailable"

    asyncio.run(scene())
    assert gateway.service.cancelled == 1
    assert gateway.uploads == []


def test_who_is_still_sending_at_the_end_is_told(gateway: Any, tools: Any) -> None:
    async def scene() -> None:
        sending = Uploader(gateway, tools)
        await until(lambda: gateway.uploads)
        gateway.shared.admission.drain(0.01)
        await sending.task
        assert sending.reply.status == 503

    asyncio.run(scene())
    assert gateway.uploads == []


def test_a_long_stream_says_that_it_lives(gateway: Any, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "HEAD_START_S", 0.01)
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.02)

    async def scene() -> None:
        gateway.service.hold = asyncio.Event()
        client = Client(gateway, tools, {"stream": "true"})
        await until(lambda: client.reply.body.count(b": still at work\n\n") >= 3)
        assert client.reply.status == 200
        gateway.service.hold.set()
        await client.task
        assert client.reply.body.rstrip().endswith(b"}")
        assert b"transcript.text.done" in client.reply.body

    asyncio.run(scene())


def test_an_error_after_the_streams_head_is_an_event(
    gateway: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "HEAD_START_S", 0.01)

    async def scene() -> None:
        gateway.service.hold = asyncio.Event()
        gateway.service.error = AudioDecodeError("meeting.wav is not audio.")
        client = Client(gateway, tools, {"stream": "true"})
        await until(lambda: client.reply.body)
        gateway.service.hold.set()
        await client.task
        last = client.reply.body.strip().rpartition(b"\n\n")[2]
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "invalid_audio"

    asyncio.run(scene())
    assert b'kind="invalid_audio"' in gateway.shared.metrics.text()


def test_a_client_that_goes_in_the_middle_of_a_stream(
    gateway: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "HEAD_START_S", 0.01)

    async def scene() -> None:
        gateway.service.hold = asyncio.Event()
        client = Client(gateway, tools, {"stream": "true"})
        await until(lambda: client.reply.body)
        client.gone.set()
        await client.task

    asyncio.run(scene())
    assert gateway.service.cancelled == 1
    assert gateway.shared.admission.running == 0


def test_places() -> None:
    async def scene() -> None:
        admission = Admission(1)
        with admission.admit():
            with pytest.raises(OverloadedError, match="1 requests are in work"), admission.admit():
                pass
            assert admission.running == 1
        assert admission.running == 0
        admission.drain(0)
        with pytest.raises(ServerUnavailableError), admission.admit():
            pass
        await asyncio.wait_for(admission.expired.wait(), 60)

    asyncio.run(scene())
