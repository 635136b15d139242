"""A stream's connection to the server: one sequence at a time, one request in flight."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

import numpy as np

from orchestrator.client.stream.codec import WireChunk, new_sequence_id
from orchestrator.client.stream.options import StreamRequest
from orchestrator.client.stream.replay import Piece
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.streaming import ChunkOptions, StreamOptions, StreamUpdate
from orchestrator.errors import SpeechError

logger = logging.getLogger(__name__)

LEAVE_S: Final = 3.0
"""How long it may take to tell the server that a stream is over, in seconds."""


class Transport(Protocol):
    """The part of `TritonTransport` that a stream needs."""

    host: str

    async def stream_chunk(
        self, model: str, chunk: WireChunk, *, version: str = "", timeout_s: float
    ) -> StreamUpdate:
        """See `TritonTransport.stream_chunk`."""


class Line:
    """Sends the pieces of one stream."""

    def __init__(self, transport: Transport, model: str, request: StreamRequest, timeout_s: float) -> None:
        """Prepare; ``timeout_s`` is for one piece, and the duration of its audio is added."""
        self._transport = transport
        self._model = model
        self._request = request
        self._timeout_s = timeout_s
        self._sequence = 0
        self._open = False  # the server may hold a place for the sequence
        self._flight: asyncio.Task[StreamUpdate] | None = None

    async def send(self, piece: Piece) -> StreamUpdate:
        """Send ``piece``; its answer.

        Cancelled, it leaves the request alone: Triton forgets a sequence whose request is cancelled without
        telling the model, whose place for it would stay taken. `leave` waits for it.

        Raises:
            SpeechError: see `TritonTransport.stream_chunk`.
        """
        force = piece.force_end_of_utterance
        options: StreamOptions | ChunkOptions | None = None
        if piece.start:
            self._sequence = new_sequence_id()
            options = self._request.wire(force_end_of_utterance=force)
        elif force:
            options = ChunkOptions(force_end_of_utterance=True)
        self._open = True
        chunk = WireChunk(self._sequence, piece.samples, start=piece.start, end=piece.end, options=options)
        timeout_s = self._timeout_s + len(piece.samples) / SAMPLE_RATE_HZ
        self._flight = asyncio.create_task(self._send(chunk, timeout_s))
        update = await asyncio.shield(self._flight)
        self._open = not piece.end
        return update

    async def leave(self) -> None:
        """End the server's sequence, if there may be one, and never fail: its place is free for others.

        Also where the model lost the stream: Triton keeps a place of its own for it.
        """
        flight = self._flight
        if flight is not None:
            await asyncio.wait({flight}, timeout=LEAVE_S)
            if not flight.done():
                flight.cancel()
                await asyncio.wait({flight})
            if not flight.cancelled():
                flight.exception()  # whoever waited for it has seen it
        if not self._open:
            return
        self._open = False
        last = WireChunk(self._sequence, np.zeros(0, np.int16), end=True)
        try:
            await self._send(last, LEAVE_S)
        except SpeechError as error:
            logger.debug("the stream could not be ended on the server, which will find out: %s", error)

    async def _send(self, chunk: WireChunk, timeout_s: float) -> StreamUpdate:
        return await self._transport.stream_chunk(
            self._model, chunk, version=self._request.model_version, timeout_s=timeout_s
        )
