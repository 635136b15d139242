"""One live stream: audio goes out, answers come back, and a lost server is found again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from orchestrator.client.catalog import ModelCard
from orchestrator.client.engines.board import EngineBoard
from orchestrator.client.retry import RetryPolicy
from orchestrator.client.routing import Decision
from orchestrator.client.stream import sources
from orchestrator.client.stream.announcer import Announcer, end
from orchestrator.client.stream.events import CaughtUp, Completed, StreamEvent
from orchestrator.client.stream.handover import Handover
from orchestrator.client.stream.labeler import SpeakerLabeler
from orchestrator.client.stream.line import Line, Transport
from orchestrator.client.stream.options import StreamRequest
from orchestrator.client.stream.outage import Outages
from orchestrator.client.stream.replay import Piece, Replay
from orchestrator.client.stream.results import Finals
from orchestrator.client.stream.sources import StreamSource
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.errors import ServiceError, SpeechError
from orchestrator.settings import Settings
from orchestrator.transcript.models import Transcript
from orchestrator.transcript.routing import RoutingRecord

logger = logging.getLogger(__name__)

_DEFAULT_CHUNK_MS: Final = 160
"""For a model that does not say its step."""
_LARGEST_MS: Final = 2000
"""Audio of one request when the server is behind: more would make other streams wait for this one."""
_UNREAD: Final = 64
"""Events that wait for the caller; beyond them no more audio is sent until one is taken."""
_SILENCE_S: Final = 15.0
"""A source that gives nothing for this long: the server is told that the stream is still wanted."""
_FIRST_WAIT_S: Final = 0.25
_LONGEST_WAIT_S: Final = 3.0


def _retry(retries: int) -> RetryPolicy:
    """Speech goes on meanwhile: waits are shorter than a request's."""
    return RetryPolicy(retries, first_s=_FIRST_WAIT_S, longest_s=_LONGEST_WAIT_S)


@dataclass(frozen=True, slots=True)
class Route:
    """Who does the work: the streaming models in order, and what names the speakers, if anything."""

    decision: Decision
    board: EngineBoard
    labeler: SpeakerLabeler | None = None


class Session:
    """Runs one stream, in a task of its own; `events` starts it and tells what happens."""

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        source: StreamSource,
        request: StreamRequest,
        choose: Callable[[], Awaitable[Route]],
        running: set[Session],
    ) -> None:
        """Prepare a stream.

        Args:
            transport: the connection.
            settings: ``client`` for limits and times, ``audio`` for the largest file.
            source: where the audio comes from.
            request: what the caller asked for.
            choose: finds the models, when the stream starts.
            running: where the session is while it runs.
        """
        client = settings.client
        self._transport = transport
        self._settings = settings
        self._source = source
        self._request = request
        self._choose = choose
        self._running = running
        self._replay = Replay(request.chunk_ms or _DEFAULT_CHUNK_MS, _LARGEST_MS)
        self._backlog = int(client.stream_backlog_s * SAMPLE_RATE_HZ)
        self._outages = Outages(
            opening=_retry(client.retries),
            retry=_retry(client.stream_reconnects),
            limit_s=client.stream_reconnect_s,
        )
        self._language: str | None = None
        self._handover: Handover | None = None
        self._line: Line
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._stopped = False
        self._pumping: asyncio.Task[None] | None = None
        self._working: asyncio.Task[None] | None = None

    async def events(self) -> AsyncGenerator[StreamEvent, None]:
        """Start, and say what happens until the stream is over; closed early, it is ended on the server.

        Raises:
            SpeechError: see `AsyncSpeechClient.stream`.
        """
        out, unread = anyio.create_memory_object_stream[StreamEvent](_UNREAD)
        with unread:
            working = self._working = asyncio.create_task(self._work(out))
            self._running.add(self)
            working.add_done_callback(lambda _: self._running.discard(self))
            try:
                async for event in unread:
                    yield event
                await asyncio.wait({working})
                if working.cancelled():
                    raise ServiceError(
                        f"This stream from {self._transport.host} was closed while it was read.",
                        fix="end it with stop() to get all that was said.",
                        host=self._transport.host,
                    )
                working.result()
            finally:
                await self.aclose()

    async def aclose(self) -> None:
        """End the stream now, here and on the server; what is not final is dropped."""
        if self._working is not None:
            await end(self._working)

    @property
    def language(self) -> str | None:
        """What is spoken, a BCP-47 tag; None until the server has said it."""
        return self._language

    @property
    def routing(self) -> RoutingRecord | None:
        """Which engine has the stream, and why; None until one was chosen."""
        return None if self._handover is None else self._handover.record

    def stop(self) -> None:
        """Take no more audio; what was said so far still becomes final, and the stream ends by itself."""
        self._stopped = True
        self._replay.end()
        self._news.set()
        if self._pumping is not None:
            self._pumping.cancel()

    def end_utterance(self) -> None:
        """Make everything heard so far final, without waiting for a pause."""
        self._replay.force_end_of_utterance()
        self._news.set()

    async def _work(self, out: MemoryObjectSendStream[StreamEvent]) -> None:
        with out:
            route = await self._choose()
            handover = self._handover = Handover(route.decision, route.board)
            self._line = self._to(handover.card)
            if self._stopped:
                self._replay.end()
            announcer = Announcer(
                out, route.labeler, partials=self._request.partials, audio=self._replay.audio
            )
            self._pumping = asyncio.create_task(self._pump())
            try:
                failure = await self._send_all(handover, announcer)
                await announcer.finish()  # what is final is told before what went wrong
                if failure is not None:
                    raise failure
                await asyncio.wait({self._pumping})
                if not self._pumping.cancelled():
                    self._pumping.result()  # raises what the source raised
                await announcer.tell(Completed(self._transcript(announcer.finals, handover)))
            finally:
                await end(self._pumping)
                await announcer.close()
                await self._line.leave()

    def _to(self, card: ModelCard) -> Line:
        """A connection to a model, and pieces of its length."""
        chunk_ms = self._request.chunk_ms or card.chunk_ms or _DEFAULT_CHUNK_MS
        self._replay.step(chunk_ms, int(min(_LARGEST_MS, card.max_window_s * 1000)))
        timeout_s = self._request.timeout or self._settings.client.stream_timeout_s
        return Line(self._transport, card.name, self._request, timeout_s)

    async def _pump(self) -> None:
        """Take audio from the source, no more than may wait."""
        try:
            if self._stopped:
                return
            async with aclosing(sources.read(self._source, self._request, self._settings.audio)) as pieces:
                async for piece in pieces:
                    self._replay.add(piece)
                    self._news.set()
                    while self._replay.received - self._replay.sent > self._backlog:
                        self._room.clear()
                        await self._room.wait()
        finally:
            self._replay.end()
            self._news.set()

    async def _send_all(self, handover: Handover, announcer: Announcer) -> SpeechError | None:
        """Send everything; what ended it before its time, if anything did."""
        replay = self._replay
        silent = False
        while not replay.finished and not (replay.ended and not replay.received):
            piece = replay.next_piece()
            if piece is None:
                self._news.clear()
                if self._request.caught_up and not silent:
                    await announcer.tell(CaughtUp(replay.received / SAMPLE_RATE_HZ))
                piece = await self._silence()
            silent = piece is not None and not len(piece.samples)
            if piece is None:
                continue
            try:
                with handover.asked():
                    update = await self._line.send(piece)
            except SpeechError as error:
                wait_s = self._wait_s(error)
                moved = handover.lost(error, hopeless=wait_s is None)
                if wait_s is None and not moved:
                    return handover.reason(error)
                replay.lost()
                if moved:
                    await self._line.leave()
                    self._line = self._to(handover.card)
                    continue
                logger.info("%s: stream lost, next try in %.2f s: %s", self._transport.host, wait_s, error)
                await anyio.sleep(wait_s or 0.0)
                await self._line.leave()
                continue
            sent = replay.sent + len(piece.samples)
            told = self._outages.answered(anyio.current_time(), sent, replay.final)
            if told is not None:
                await announcer.tell(told)
            self._language = update.language
            heard = replay.answered(update)
            self._room.set()
            announcer.took(sent - len(piece.samples), piece.samples)
            await announcer.heard(heard)
        return None

    def _wait_s(self, error: SpeechError) -> float | None:
        """How long to wait until the same engine is tried again; None: that cannot help."""
        try:
            return self._outages.wait_s(error, anyio.current_time(), self._replay.sent)
        except SpeechError:
            return None

    async def _silence(self) -> Piece | None:
        """Wait for news; what to send where there is none for long."""
        while True:
            with anyio.move_on_after(_SILENCE_S):
                await self._news.wait()
                return None
            piece = self._replay.sign_of_life()
            if piece is not None:
                return piece

    def _transcript(self, finals: Finals, handover: Handover) -> Transcript:
        transcript = finals.transcript(
            source=sources.name_of(self._source),
            duration_s=self._replay.received / SAMPLE_RATE_HZ,
            language=self._language,
            engine=handover.card.engine,
        )
        return transcript.model_copy(update={"routing": handover.record})
