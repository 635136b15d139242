"""Streams whose clients vanish: does the server forget them, and give their memory back?"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Final

import grpc
import grpc.aio

from orchestrator.bench.streams.load import CHANNEL_OPTIONS, Messages, method
from orchestrator.bench.streams.server import Target
from orchestrator.client.stream.codec import Pcm16, new_sequence_id

WAYS: Final = ("silent", "cancelled", "closed")
"""The client sends nothing more; cancels a request under way; closes its connection with one under way."""
AT_ONCE: Final = 64
"""Clients that begin at the same time."""
_FIRST_LIMIT_S: Final = 60.0
_POKE_S: Final = 0.5
_MARGIN_S: Final = 60.0


def vanish(target: Target, samples: Pcm16, count: int) -> Counter[str]:
    """Begin ``count`` streams and leave each of them without its end, in turn in each of `WAYS`.

    Args:
        target: the server.
        samples: what they say.
        count: how many, at most ``target.max_streams``.

    Returns:
        How many began, and how many did not, by gRPC status.
    """
    return asyncio.run(_vanish(target, samples, count))


def forgotten(target: Target, samples: Pcm16) -> float | None:
    """Wait until the server has no streams left.

    The model looks for idle streams whenever it has work, so a short stream comes by now and then.

    Args:
        target: the server.
        samples: what the short streams say.

    Returns:
        The seconds that took, None where some stayed for a minute after their time.
    """
    began = time.monotonic()
    # The metrics are those of the model's last work: until the first short stream they say nothing.
    time.sleep(target.idle_timeout_s)
    while time.monotonic() - began < target.idle_timeout_s + _MARGIN_S:
        came = asyncio.run(_poke(target, samples))
        if came and target.counters().get("speech_streams_open", 0.0) == 0:
            return time.monotonic() - began
        time.sleep(_POKE_S)
    return None


async def _vanish(target: Target, samples: Pcm16, count: int) -> Counter[str]:
    messages = Messages(target.model, samples, target.chunk_ms)
    outcomes: Counter[str] = Counter()
    free = asyncio.Semaphore(AT_ONCE)
    async with grpc.aio.insecure_channel(target.url, options=CHANNEL_OPTIONS) as shared:

        async def one(number: int) -> None:
            async with free:
                way = WAYS[number % len(WAYS)]
                # Some after their first chunk, some after a few.
                chunks = 1 + number // len(WAYS) % 3
                if way == "closed":
                    channel = grpc.aio.insecure_channel(target.url, options=CHANNEL_OPTIONS)
                    outcomes[await _leave(channel, messages, chunks, way)] += 1
                    await channel.close()
                else:
                    outcomes[await _leave(shared, messages, chunks, way)] += 1

        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(number))
    return outcomes


async def _leave(channel: grpc.aio.Channel, messages: Messages, chunks: int, way: str) -> str:
    """Begin a stream, send ``chunks``, and go; what came of its beginning."""
    call = method(channel)
    first, middle, _ = messages.heads(new_sequence_id())
    try:
        await call(messages.audio(0) + first, timeout=_FIRST_LIMIT_S)
        for number in range(1, chunks):
            await call(messages.audio(number) + middle, timeout=_FIRST_LIMIT_S)
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    if way == "silent":
        return "began"
    under_way = call(messages.audio(chunks) + middle, timeout=_FIRST_LIMIT_S)
    await asyncio.sleep(0.001 * (chunks - 1))  # on its way, at the server, in the model
    if way == "cancelled":
        under_way.cancel()
    else:
        await channel.close()
    return "began"


async def _poke(target: Target, samples: Pcm16) -> bool:
    """A stream of two chunks; whether there was a place for it."""
    messages = Messages(target.model, samples, target.chunk_ms)
    first, _, last = messages.heads(new_sequence_id())
    async with grpc.aio.insecure_channel(target.url, options=CHANNEL_OPTIONS) as channel:
        call = method(channel)
        try:
            await call(messages.audio(0) + first, timeout=_FIRST_LIMIT_S)
            await call(messages.audio(1) + last, timeout=_FIRST_LIMIT_S)
        except grpc.aio.AioRpcError:
            return False
    return True
