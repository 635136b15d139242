"""Where a live stream's audio comes from: files, iterators, microphones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, Protocol, runtime_checkable

import anyio
import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from orchestrator.audio import decode
from orchestrator.client.stream.codec import Pcm16
from orchestrator.client.stream.options import StreamRequest
from orchestrator.client.stream.pcm import PcmIntake, Piece
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.errors import AudioValueError
from orchestrator.settings import AudioSettings

StreamSource = str | Path | NDArray[Any] | AsyncIterable[Piece] | Iterable[Piece]
"""A file's path, samples ``[n]``, or an iterator of `Piece` of any sizes; a `Microphone` is one."""

_FILE_PIECE_MS: Final = 20
"""A file arrives in pieces of this length, like the blocks of a sound card."""


@runtime_checkable
class Named(Protocol):
    """A source that knows its name and its sample rate."""

    name: str
    sample_rate_hz: int


def name_of(source: StreamSource) -> str:
    """What to call ``source`` in a transcript; empty where it has no name."""
    if isinstance(source, str | Path):
        return Path(source).name
    return source.name if isinstance(source, Named) else ""


def check(source: StreamSource) -> None:
    """Refuse what can never be a source, before anything is opened.

    Raises:
        AudioValueError: it is none.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        raise AudioValueError(
            "The source of a stream cannot be bytes: they may be a file or samples.",
            fix="pass the path of a file, or 16-bit samples in a list: [samples].",
        )
    if not isinstance(source, str | Path | AsyncIterable | Iterable):
        raise AudioValueError(
            f"The source of a stream cannot be a {type(source).__name__}.",
            fix="pass a path, a Microphone, an array, or an iterator of bytes or arrays.",
        )


async def read(
    source: StreamSource, request: StreamRequest, limits: AudioSettings
) -> AsyncGenerator[Pcm16, None]:
    """The audio of ``source`` as 16 kHz int16 ``[n]``, n not bounded, as soon as it is there.

    Raises:
        AudioError: the file cannot be read, or a piece is no audio; the subclass says why.
    """
    if isinstance(source, str | Path):
        samples = await anyio.to_thread.run_sync(
            partial(_load, source, request.sample_rate, limits), abandon_on_cancel=True
        )
        async for block in _paced(samples, realtime=request.pace == "realtime"):
            yield block
        return
    intake = PcmIntake(source.sample_rate_hz if isinstance(source, Named) else request.rate_hz)
    if isinstance(source, np.ndarray):
        samples = np.concatenate([intake.take(source), intake.end()])
        async for block in _paced(samples, realtime=request.pace == "realtime"):
            yield block
        return
    pieces = source if isinstance(source, AsyncIterable) else _in_thread(iter(source))
    try:
        async for piece in pieces:
            yield intake.take(piece)
        yield intake.end()
    finally:
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()


def _load(path: str | Path, sample_rate: int | None, limits: AudioSettings) -> Pcm16:
    audio = decode(path, channels="mix", sample_rate=sample_rate, limits=limits)
    return PcmIntake(SAMPLE_RATE_HZ).take(audio.samples[0])


async def _paced(samples: Pcm16, *, realtime: bool) -> AsyncIterator[Pcm16]:
    """``samples`` in pieces; in real time each comes when its last sample would have been spoken."""
    size = _FILE_PIECE_MS * SAMPLE_RATE_HZ // 1000
    began = anyio.current_time()
    for begin in range(0, len(samples), size):
        piece = samples[begin : begin + size]
        if realtime:
            await anyio.sleep_until(began + (begin + len(piece)) / SAMPLE_RATE_HZ)
        yield piece


_END: Final = object()


async def _in_thread(pieces: Iterator[Piece]) -> AsyncIterator[Piece]:
    """A plain iterator, asked from a thread of its own.

    It may block for ever (a pipe that nobody writes to), and neither the stream nor the program may wait for
    it then: so a daemon thread, and not one of a pool.
    """
    loop = asyncio.get_running_loop()
    asked: SimpleQueue[asyncio.Future[Any] | None] = SimpleQueue()

    def work() -> None:
        while (answer := asked.get()) is not None:
            error: Exception | None = None
            piece: Any = _END
            try:
                piece = next(pieces, _END)
            except Exception as raised:  # noqa: BLE001 (it is raised again where the piece is waited for)
                error = raised
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_settle, answer, piece, error)

    Thread(target=work, name="stream-source", daemon=True).start()
    try:
        while True:
            answer: asyncio.Future[Any] = loop.create_future()
            asked.put(answer)
            piece = await answer
            if piece is _END:
                return
            yield piece
    finally:
        asked.put(None)


def _settle(answer: asyncio.Future[Any], piece: object, error: Exception | None) -> None:
    if answer.cancelled():
        return
    if error is None:
        answer.set_result(piece)
    else:
        answer.set_exception(error)
