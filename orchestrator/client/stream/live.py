"""What ``stream`` returns: the events, and the reins of the stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import TracebackType

from orchestrator.client.stream.events import StreamEvent
from orchestrator.client.stream.session import Session
from orchestrator.transcript.routing import RoutingRecord


class LiveStream:
    """A live stream: iterate over it for its events, once. It starts with the first event asked for.

    ::

        async for event in client.stream(Microphone()):
            if isinstance(event, Final):
                print(event.segment.text)

    A loop that is left early ends the stream on the server as soon as the stream object is collected. Code
    that keeps the object around uses ``async with``, or calls `aclose`.
    """

    def __init__(self, session: Session) -> None:
        """Wrap a session that has not started."""
        self._session = session
        self._events = session.events()

    def __aiter__(self) -> AsyncGenerator[StreamEvent, None]:
        return self._events

    async def __anext__(self) -> StreamEvent:
        return await anext(self._events)

    async def __aenter__(self) -> LiveStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def language(self) -> str | None:
        """What is spoken, a BCP-47 tag; None until the server has said it."""
        return self._session.language

    @property
    def routing(self) -> RoutingRecord | None:
        """Which engine has the stream, and why; None until one was chosen."""
        return self._session.routing

    def stop(self) -> None:
        """Take no more audio. What was said so far still becomes final: go on reading until `Completed`."""
        self._session.stop()

    def end_utterance(self) -> None:
        """Make everything heard so far final, without waiting for a pause."""
        self._session.end_utterance()

    async def aclose(self) -> None:
        """End the stream now, here and on the server; what is not final is dropped. Safe to call again."""
        await self._session.aclose()
        if not getattr(
            self._events, "ag_running", False
        ):  # a task that waits for an event learns it by itself
            await self._events.aclose()
