"""Several servers as one: work goes to the least busy one that is there, and on to another if that fails.

A request that a server was lost under, or had no room for, is sent to another. A live stream stays at the
server that it began at, because that one holds its state; when it is lost there, the session begins a new
sequence with the audio that was not final (`orchestrator.client.stream.replay`), and that one is placed anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Self, TypeVar

import anyio

from orchestrator.client.catalog import ModelCard, merged
from orchestrator.client.failures import Call, unavailable
from orchestrator.client.retry import RetryPolicy
from orchestrator.client.stream.codec import WireChunk
from orchestrator.client.triton import ServerStatus, TritonTransport, closed_error
from orchestrator.client.upstreams import Place, Upstreams
from orchestrator.diarization.base import Diarization, DiarizationOptions
from orchestrator.engines.alignment.base import Alignment, AlignmentOptions
from orchestrator.engines.base import LanguageGuess, Recognition, RecognitionOptions, Samples
from orchestrator.engines.streaming import StreamUpdate
from orchestrator.errors import (
    ModelNotFoundError,
    ModelNotReadyError,
    OverloadedError,
    RemoteInferenceError,
    RequestTimeoutError,
    ServerUnavailableError,
    SpeechError,
    StreamLostError,
)

logger = logging.getLogger(__name__)

CHECK_S: Final = 2.0
"""How often each server is asked how it is, in seconds."""
_CHECK_LIMIT_S: Final = 5.0
"""A server that takes longer to say how it is counts as away."""
_ELSEWHERE: Final = (ServerUnavailableError, ModelNotReadyError, ModelNotFoundError, OverloadedError)
"""What another server may do although this one could not."""
_PASSING: Final = (ServerUnavailableError, ModelNotReadyError, OverloadedError)
"""What time may heal, where no server could."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _View:
    """What a server said of itself when it was last asked."""

    status: ServerStatus
    cards: tuple[ModelCard, ...]


class UpstreamPool:
    """`SpeechTransport` over several Triton servers with the same models. Use it on one event loop."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        timeout_s: float,
        max_concurrency: int,
        retry: RetryPolicy | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare; the first call connects, and from then on the servers are watched until `close`.

        Args:
            urls: of the servers; see `TritonTransport`, also for the next two and ``metadata``.
            timeout_s: limit of one attempt at one server, in seconds.
            max_concurrency: inferences of one model in flight at each server.
            retry: how often to try again when no server could do it.
            metadata: gRPC headers sent with each call.

        Raises:
            ConfigurationError: an address is wrong, or named twice.
        """
        once = RetryPolicy(0)  # another server comes before another try
        transports = [
            TritonTransport(
                url, timeout_s=timeout_s, max_concurrency=max_concurrency, retry=once, metadata=metadata
            )
            for url in urls
        ]
        self._upstreams = Upstreams([transport.host for transport in transports])
        self._transports = {transport.host: transport for transport in transports}
        self.host = ", ".join(self._upstreams)
        self._retry = retry or RetryPolicy()
        self._views: dict[str, _View] = {}
        self._places: dict[int, Place] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self._began: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; calls in flight are cancelled. Safe to call again."""
        self._closed = True
        tasks = [*self._watchers, *([] if self._began is None else [self._began])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._watchers.clear()
        for transport in self._transports.values():
            await transport.close()

    def outstanding(self) -> dict[str, int]:
        """Requests and streams in work at each server that is there."""
        upstreams = self._upstreams
        return {host: upstreams.outstanding(host) for host in upstreams if upstreams.there(host)}

    async def status(self) -> ServerStatus:
        """How the servers are together: ``live`` and ``ready`` where one of them is.

        Raises:
            ServerUnavailableError: none answers.
        """
        told = [view.status for view in await self._known()]
        ready = any(status.ready for status in told)
        return ServerStatus(
            self.host, any(status.live for status in told), ready, told[0].name, told[0].version
        )

    async def cards(self) -> tuple[ModelCard, ...]:
        """A card for each model of any server, ready where it is at one of them.

        Raises:
            ServerUnavailableError: none answers.
        """
        return merged([view.cards for view in await self._known()])

    async def recognize(
        self,
        model: str,
        samples: Samples,
        options: RecognitionOptions,
        *,
        version: str = "",
        pcm16: bool = False,
    ) -> Recognition:
        """See `TritonTransport.recognize`; by the server that has the least to do."""

        async def at(server: TritonTransport) -> Recognition:
            return await server.recognize(model, samples, options, version=version, pcm16=pcm16)

        return await self._anywhere(model, at)

    async def detect_language(self, model: str, samples: Samples) -> LanguageGuess:
        """See `TritonTransport.detect_language`; by the server that has the least to do."""

        async def at(server: TritonTransport) -> LanguageGuess:
            return await server.detect_language(model, samples)

        return await self._anywhere(model, at)

    async def diarize(
        self, model: str, samples: Samples, options: DiarizationOptions, *, version: str = ""
    ) -> Diarization:
        """See `TritonTransport.diarize`; by the server that has the least to do."""

        async def at(server: TritonTransport) -> Diarization:
            return await server.diarize(model, samples, options, version=version)

        return await self._anywhere(model, at)

    async def align(
        self,
        model: str,
        samples: Samples,
        words: Sequence[str],
        options: AlignmentOptions,
        *,
        pcm16: bool = False,
    ) -> Alignment:
        """See `TritonTransport.align`; by the server that has the least to do."""

        async def at(server: TritonTransport) -> Alignment:
            return await server.align(model, samples, words, options, pcm16=pcm16)

        return await self._anywhere(model, at)

    async def stream_chunk(
        self, model: str, chunk: WireChunk, *, version: str = "", timeout_s: float
    ) -> StreamUpdate:
        """See `TritonTransport.stream_chunk`; all chunks of a sequence go where its first one went.

        Raises:
            StreamLostError: as there, and for a chunk whose sequence has no server.
        """

        async def at(server: TritonTransport) -> StreamUpdate:
            return await server.stream_chunk(model, chunk, version=version, timeout_s=timeout_s)

        if chunk.start:
            await self._begun()
            update = await self._open(model, chunk.sequence, at)
            if chunk.end:
                self._leave(chunk.sequence)
            return update
        place = self._places.get(chunk.sequence)
        if place is None:
            raise StreamLostError(
                f"none of {self.host} has this stream of {model}.",
                fix="open it again; the client library does so by itself and sends what was not final.",
                host=self.host,
                model=model,
            )
        try:
            return await self._at(place, at)
        finally:
            if chunk.end:
                self._leave(chunk.sequence)

    async def _open(
        self, model: str, sequence: int, act: Callable[[TritonTransport], Awaitable[StreamUpdate]]
    ) -> StreamUpdate:
        """Send a sequence's first chunk to the best server that takes it."""
        tried: set[str] = set()
        first: SpeechError | None = None
        while (place := self._upstreams.take(model, anyio.current_time(), tried)) is not None:
            self._places[sequence] = place
            try:
                return await self._at(place, act)
            except _ELSEWHERE as error:
                self._leave(sequence)
                tried.add(place.upstream)
                first = first or error
        raise first or closed_error(self.host)

    def _leave(self, sequence: int) -> None:
        place = self._places.pop(sequence, None)
        if place is not None:
            self._upstreams.give_back(place)

    async def _anywhere(self, model: str, act: Callable[[TritonTransport], Awaitable[Result]]) -> Result:
        """Do something at the best server; at another, or once more, where that cannot."""
        await self._begun()
        attempt = 0
        while True:
            try:
                return await self._somewhere(model, act)
            except _PASSING as error:
                wait_s = self._retry.wait_s(attempt)
                if wait_s is None or anyio.current_time() + wait_s > anyio.current_effective_deadline():
                    raise
                logger.info("%s: next try in %.2f s: %s", self.host, wait_s, error)
            attempt += 1
            await anyio.sleep(wait_s)

    async def _somewhere(self, model: str, act: Callable[[TritonTransport], Awaitable[Result]]) -> Result:
        """Do something at the first server, best first, that can; the best one's error where none can."""
        tried: set[str] = set()
        first: SpeechError | None = None
        while (place := self._upstreams.take(model, anyio.current_time(), tried)) is not None:
            try:
                return await self._at(place, act)
            except _ELSEWHERE as error:
                tried.add(place.upstream)
                first = first or error
            finally:
                self._upstreams.give_back(place)
        raise first or closed_error(self.host)

    async def _at(self, place: Place, act: Callable[[TritonTransport], Awaitable[Result]]) -> Result:
        """Do something at one server, and learn from how it went."""
        if self._closed:
            raise closed_error(self.host)
        host = place.upstream
        try:
            result = await act(self._transports[host])
        except ServerUnavailableError as error:
            self._lost(host, error)
            raise
        except (RemoteInferenceError, RequestTimeoutError):
            self._upstreams.failed(host, anyio.current_time())
            raise
        self._upstreams.worked(host)
        return result

    async def _known(self) -> list[_View]:
        """What the servers say of themselves; at least one does."""
        await self._begun()
        if not self._views:
            await self._check_all()
        if not self._views:
            raise unavailable(Call(self.host), "none of them answers.")
        return [self._views[host] for host in self._upstreams if host in self._views]

    async def _begun(self) -> None:
        """Ask all servers how they are, once, and go on doing so."""
        if self._closed:
            raise closed_error(self.host)
        if self._began is None:
            self._began = asyncio.create_task(self._check_all())
            self._watchers = [asyncio.create_task(self._watch(host)) for host in self._upstreams]
        if not self._began.done():
            # One caller that gives up must not take the check from the others.
            await asyncio.wait({self._began})
            if self._closed:
                raise closed_error(self.host)

    async def _watch(self, host: str) -> None:
        while True:
            await anyio.sleep(CHECK_S)
            await self._check(host)

    async def _check_all(self) -> None:
        async with anyio.create_task_group() as group:
            for host in self._upstreams:
                group.start_soon(partial(self._check, host))

    async def _check(self, host: str) -> None:
        transport = self._transports[host]
        try:
            with anyio.fail_after(_CHECK_LIMIT_S):
                view = _View(await transport.status(), await transport.cards())
        except (SpeechError, TimeoutError) as error:
            self._lost(host, error)
            return
        if not self._upstreams.there(host):
            logger.info("the upstream %s is there", host)
        self._views[host] = view
        self._upstreams.checked(host, [card.name for card in view.cards if card.ready])

    def _lost(self, host: str, error: Exception) -> None:
        if self._views.pop(host, None) is not None:
            logger.warning("the upstream %s is away: %s", host, error)
        self._upstreams.away(host)
