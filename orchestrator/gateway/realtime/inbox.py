"""What a client has sent and nobody has looked at yet.

It is read as it comes, so that pings are answered and a client that goes is noticed while the recogniser is
busy; a client that sends a file as fast as it can is held back when too much of it waits.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Message, Receive

MOST_WAITING: Final = 32 * 1024**2
"""Bytes of a connection that may wait: 13 minutes of 16 kHz PCM in base64."""


class Inbox:
    """The messages of one connection, in order."""

    def __init__(self, receive: Receive, most_waiting: int = MOST_WAITING) -> None:
        """Read from ``receive``; stop for a while when more than ``most_waiting`` bytes wait."""
        self._receive = receive
        self._most = most_waiting
        self._queue: asyncio.Queue[Message] = asyncio.Queue()
        self._waiting = 0
        self._room = asyncio.Event()

    async def read(self) -> int:
        """Read until the client is gone; its close code."""
        while (message := await self._receive())["type"] == "websocket.receive":
            self._waiting += _size(message)
            self._queue.put_nowait(message)
            while self._waiting > self._most:
                self._room.clear()
                await self._room.wait()
        return int(message.get("code") or 0)

    async def next(self) -> str | bytes:
        """The next message: text, or bytes if it was sent as such."""
        message = await self._queue.get()
        self._waiting -= _size(message)
        self._room.set()
        text = message.get("text")
        return text if isinstance(text, str) else bytes(message.get("bytes") or b"")


def _size(message: Message) -> int:
    return len(message.get("text") or message.get("bytes") or b"")
