"""The caller's deadline travels to the server with each request."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import grpc
import pytest

from orchestrator.client import AsyncSpeechClient, SpeechClient
from orchestrator.client.triton import TritonTransport
from orchestrator.engines.base import RecognitionOptions


def left(fake: Any) -> list[float]:
    """Have the next inferences note the time that they are given, in seconds."""
    noted: list[float] = []

    def note(context: grpc.ServicerContext) -> None:
        noted.append(context.time_remaining())

    fake.faults += [note] * 8
    return noted


def test_a_timeout_is_the_servers_too(fake: Any, tools: Any) -> None:
    noted = left(fake)
    with SpeechClient(fake.url) as client:
        client.transcribe(tools.spoken("it was"), sample_rate=16_000, diarize=False, timeout=20)
    assert noted
    assert all(0 < seconds <= 20 for seconds in noted)


def test_so_is_a_cancel_scope_around_it(fake: Any, tools: Any) -> None:
    noted = left(fake)

    async def scene() -> None:
        async with AsyncSpeechClient(fake.url) as client:
            with anyio.fail_after(15):
                await client.transcribe(tools.spoken("it was"), sample_rate=16_000, diarize=False)

    asyncio.run(scene())
    assert noted
    assert all(0 < seconds <= 15 for seconds in noted)


def test_a_scope_knows_its_own_cancellation(fake: Any, tools: Any) -> None:
    """What is cancelled inside it ends as its timeout, and not as a cancellation of the caller's task."""

    async def scene() -> None:
        transport = TritonTransport(fake.url, timeout_s=60, max_concurrency=1)
        fake.faults += [fake.hang] * 2
        try:
            for _ in range(2):
                with pytest.raises(TimeoutError), anyio.fail_after(0.2):
                    await transport.recognize("echo", tools.spoken("it was"), RecognitionOptions())
        finally:
            await transport.close()

    asyncio.run(scene())


def test_without_one_the_settings_count(fake: Any, tools: Any) -> None:
    noted = left(fake)
    with SpeechClient(fake.url) as client:
        client.transcribe(tools.spoken("it was"), sample_rate=16_000, diarize=False)
    assert noted
    assert all(200 < seconds < 305 for seconds in noted), "300 s and the audio's own 2 s"
