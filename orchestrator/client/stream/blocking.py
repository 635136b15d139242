"""A live stream for code that is not asynchronous."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Protocol, TypeVar

from orchestrator.client.stream.events import StreamEvent
from orchestrator.client.stream.live import LiveStream
from orchestrator.errors import ServiceError
from orchestrator.transcript.routing import RoutingRecord

Result = TypeVar("Result")


class Loop(Protocol):
    """The thread on which streams run."""

    def run(self, job: Coroutine[Any, Any, Result]) -> Result:
        """Run ``job`` there and wait for it."""

    def post(self, job: Callable[[], None]) -> None:
        """Run ``job`` there soon; may be called from a signal handler."""


class BlockingLiveStream:
    """`LiveStream` with a plain ``for``. Leaving the loop, by ``break`` or Ctrl-C, ends it on the server."""

    def __init__(self, stream: LiveStream, loop: Loop) -> None:
        """Wrap ``stream``, which has not started."""
        self._stream = stream
        self._loop = loop

    def __iter__(self) -> Generator[StreamEvent, None, None]:
        try:
            while (event := self._loop.run(self._next())) is not None:
                yield event
        finally:
            self.close()

    def __enter__(self) -> BlockingLiveStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def routing(self) -> RoutingRecord | None:
        """See `LiveStream.routing`."""
        return self._stream.routing

    def stop(self) -> None:
        """See `LiveStream.stop`; any thread may call it, and a signal handler."""
        self._loop.post(self._stream.stop)

    def end_utterance(self) -> None:
        """See `LiveStream.end_utterance`; any thread may call it, and a signal handler."""
        self._loop.post(self._stream.end_utterance)

    def close(self) -> None:
        """See `LiveStream.aclose`."""
        try:
            self._loop.run(self._stream.aclose())
        except ServiceError:  # the client was closed, and all its streams with it
            return

    async def _next(self) -> StreamEvent | None:
        return await anext(aiter(self._stream), None)
