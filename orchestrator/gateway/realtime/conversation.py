"""One connection: events in, events out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Final

from orchestrator.errors import RequestTimeoutError
from orchestrator.gateway.http.state import Note
from orchestrator.gateway.listening import Listener
from orchestrator.gateway.live import LiveJob
from orchestrator.gateway.metrics import GatewayMetrics
from orchestrator.gateway.realtime import messages
from orchestrator.gateway.realtime.events import Event, EventError, error_event, event, new_id, text_of
from orchestrator.gateway.realtime.inbox import Inbox
from orchestrator.gateway.realtime.items import Items
from orchestrator.gateway.realtime.messages import ClientEvent
from orchestrator.gateway.realtime.session import Session, Setup
from orchestrator.gateway.service import Live, SpeechService

Send = Callable[[str], Awaitable[None]]
_MOST_ERRORS: Final = 100
"""After so many refused events a client is not one to go on with."""


@dataclass(slots=True)
class _Stream:
    """What is heard from the first audio of a session to its end."""

    setup: Setup
    live: Live
    listener: Listener
    items: Items
    uncommitted: int = 0


class Conversation:
    """Answers the events of one client."""

    def __init__(
        self,
        inbox: Inbox,
        send: Send,
        service: SpeechService,
        metrics: GatewayMetrics,
        note: Note,
        idle_s: float,
        *,
        openai: bool,
        model: str = "",
    ) -> None:
        """Prepare.

        Args:
            inbox: what the client sends.
            send: what it is sent.
            service: what recognises.
            metrics: where the time of answers goes.
            note: what is logged of the connection.
            idle_s: how long the client may send nothing, or take no answer.
            openai: the client is known to be one of OpenAI's.
            model: what it named when it connected.
        """
        self._inbox = inbox
        self._send = send
        self._service = service
        self._metrics = metrics
        self._note = note
        self._idle_s = idle_s
        self._openai = openai
        self._model = model
        self._session = Session(openai=openai, model=model)
        self._updated = False
        self._stream: _Stream | None = None
        self._heard_s = 0.0
        self._errors = 0

    async def run(self) -> None:
        """Answer until the client is gone, which cancels this.

        Raises:
            SpeechError: the connection cannot go on; the subclass says why.
        """
        try:
            await self._greet()
            while True:
                async with self._patience("sent nothing"):
                    message = await self._inbox.next()
                await self._answer(message)
        finally:
            await self._let_go()

    async def _greet(self) -> None:
        created = event(
            "conversation.created", conversation={"id": new_id("conv"), "object": "realtime.conversation"}
        )
        if self._openai:
            await self._say([event("session.created", session=self._session.nested())])
        await self._say([created])

    async def _answer(self, message: str | bytes) -> None:
        data: dict[str, object] = {}
        try:
            if isinstance(message, bytes):
                raise EventError(
                    "Binary messages are not taken: send events as text, with audio in base64.",
                    "invalid_event",
                )
            data = messages.read(message)
            await self._handle(messages.check(data))
        except EventError as error:
            self._errors += 1
            self._note.error = error.code
            await self._say([error_event(error, messages.event_id(data))])
            if self._errors >= _MOST_ERRORS:
                raise EventError("Too many events were refused.", "too_many_errors") from error

    async def _handle(self, asked: ClientEvent) -> None:
        if asked.kind in (messages.UPDATE_FLAT, messages.UPDATE_NESTED):
            await self._update(asked)
            return
        if not self._updated:
            raise EventError(
                f"{asked.kind} came before the session was set up: send {messages.UPDATE_FLAT} or "
                f"{messages.UPDATE_NESTED} first.",
                "session_not_updated",
            )
        if asked.kind == messages.APPEND:
            await self._append(asked)
        elif asked.kind == messages.COMMIT:
            await self._commit()
        elif asked.kind == messages.CLEAR:
            await self._clear()
        else:
            await self._done()

    async def _update(self, asked: ClientEvent) -> None:
        nested = asked.kind == messages.UPDATE_NESTED
        session, openai = self._session, self._openai or nested
        if self._stream is not None:
            raise EventError(
                f"The session cannot change while audio is being heard: end it with {messages.DONE} before.",
                "session_in_use",
                "session",
            )
        if openai and not self._openai:
            session = Session(openai=True, model=self._model)
        session.update(asked.fields.get("session"))
        self._session, self._openai, self._updated = session, openai, True
        if nested:
            await self._say([event("session.updated", session=session.nested())])
        else:
            await self._say([event("transcription_session.updated", session=session.flat())])

    async def _append(self, asked: ClientEvent) -> None:
        started = monotonic()
        audio, forced = messages.audio_of(asked), messages.forced(asked)
        stream = self._begun()
        stream.uncommitted += len(audio)
        self._note.bytes_in = (self._note.bytes_in or 0) + len(audio)
        heard = await stream.listener.hear(audio, end_utterance=forced)
        self._count(stream)
        await self._say(stream.items.tell(heard, stream.listener.language, stream.listener.received_s))
        self._metrics.stream_response.observe(monotonic() - started)

    async def _commit(self) -> None:
        stream = self._stream
        setup = self._session.setup()
        if stream is None or not stream.uncommitted:
            if self._openai:
                raise EventError(
                    "No audio has come since the last commit.", "input_audio_buffer_commit_empty"
                )
            if stream is None:
                await self._say([Items(setup, openai=False).committed()])
                return
        stream.uncommitted = 0
        if not (setup.by_hand or self._openai):
            await self._say([stream.items.committed()])  # not the end of an utterance
            return
        heard = await stream.listener.hear(b"", end_utterance=True)
        said = stream.items.tell(heard, stream.listener.language, stream.listener.received_s)
        if setup.by_hand:
            said += stream.items.close(stream.listener.received_s)
        await self._say(said or [stream.items.committed()])

    async def _clear(self) -> None:
        """Drop what is not final: the audio was heard as it came, so its words are dropped."""
        stream = self._stream
        if stream is not None:
            await stream.live.close()
            stream.live = self._service.stream(_job(stream.setup))
            stream.listener.go_on_with(stream.live)
            stream.items.restart(stream.listener.received_s)
            stream.uncommitted = 0
        await self._say([event("input_audio_buffer.cleared")])

    async def _done(self) -> None:
        """Hear the end, and tell it as the last result whatever there was."""
        stream = self._stream
        if stream is None:
            await self._say(Items(self._session.setup(), openai=self._openai).ended([], 0.0))
            return
        heard, failure = await stream.listener.finish()
        self._count(stream)
        received_s = stream.listener.received_s
        said = stream.items.tell(heard, stream.listener.language, received_s)
        await self._say(stream.items.ended(said, received_s))
        await self._let_go()
        if failure is not None:
            raise failure

    def _begun(self) -> _Stream:
        if self._stream is None:
            setup = self._session.setup()
            live = self._service.stream(_job(setup))
            self._stream = _Stream(
                setup, live, Listener(live, setup.ask.audio), Items(setup, openai=self._openai)
            )
        return self._stream

    def _count(self, stream: _Stream) -> None:
        self._note.audio_s = round(self._heard_s + stream.listener.received_s, 3)

    async def _let_go(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self._heard_s += stream.listener.received_s
            self._metrics.audio_seconds.inc(stream.listener.received_s)
            await stream.live.close()

    async def _say(self, events: Sequence[Event]) -> None:
        async with self._patience("took no answer"):
            for each in events:
                await self._send(text_of(each))

    @asynccontextmanager
    async def _patience(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._idle_s):
                yield
        except TimeoutError as error:
            raise RequestTimeoutError(
                f"The client has {what} for {self._idle_s:g} s.", fix="send silence, or end the session."
            ) from error


def _job(setup: Setup) -> LiveJob:
    ask = setup.ask
    return LiveJob(
        model=ask.model,
        language=ask.language,
        speakers=ask.max_speakers is not None,
        max_speakers=ask.max_speakers,
        endpointing=ask.endpointing,
    )
