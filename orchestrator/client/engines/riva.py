"""The engine `riva`: any Riva or NIM server, through the messages of ``nvidia-riva-client`` over grpc.aio."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import grpc
import grpc.aio
from riva.client.proto.riva_asr_pb2 import (
    RecognitionConfig,
    RecognizeRequest,
    RecognizeResponse,
    RivaSpeechRecognitionConfigRequest,
    StreamingRecognitionConfig,
    StreamingRecognizeRequest,
)
from riva.client.proto.riva_asr_pb2_grpc import RivaSpeechRecognitionStub

from orchestrator.client import codec
from orchestrator.client.catalog import ModelCard
from orchestrator.client.channel import left_s, open_channel, parse_url
from orchestrator.client.engines import riva_failures as failures
from orchestrator.client.engines import riva_messages as messages
from orchestrator.client.engines.refusals import OutsideEngine
from orchestrator.client.engines.riva_live import RivaResults, RivaStream
from orchestrator.client.failures import Call, Failure
from orchestrator.client.retry import RetryPolicy
from orchestrator.client.stream.codec import WireChunk
from orchestrator.client.triton import QUESTION_LIMIT_S, ServerStatus, closed_error
from orchestrator.contract import SAMPLE_RATE_HZ, Task
from orchestrator.diarization.base import Diarization, DiarizationOptions
from orchestrator.engines.base import LanguageGuess, Recognition, RecognitionOptions, Samples
from orchestrator.engines.checks import primary_tag
from orchestrator.engines.streaming import StreamOptions, StreamUpdate
from orchestrator.errors import ConfigurationError, StreamLostError
from orchestrator.settings_engines import RivaSettings

logger = logging.getLogger(__name__)


class RivaTransport(OutsideEngine):
    """`SpeechTransport` to a Riva server. Use it on one event loop."""

    engine = messages.ENGINE

    def __init__(self, settings: RivaSettings, *, timeout_s: float, retry: RetryPolicy | None = None) -> None:
        """Connect lazily: the first call opens the connection.

        Args:
            settings: with an address.
            timeout_s: limit of one attempt in seconds; the duration of its audio is added.
            retry: how often to try again.

        Raises:
            ConfigurationError: the address is none, or the certificates cannot be read.
        """
        self.host, self._tls = parse_url(settings.url or "", "a Riva server's gRPC", 50051)
        self._authorities = None if settings.tls_ca is None else _pem(settings.tls_ca)
        self._settings = settings
        self._timeout_s = timeout_s
        self._retry = retry or RetryPolicy()
        self._metadata = tuple(
            (key.lower(), value.get_secret_value()) for key, value in settings.metadata.items()
        )
        self._channel: grpc.aio.Channel | None = None
        self._methods: Any = None
        self._limiter: anyio.CapacityLimiter | None = None
        self._cards: dict[tuple[str, Task | None], ModelCard] = {}
        self._streams: dict[int, RivaStream] = {}
        self._closed = False

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled, streams end. Safe to call again."""
        self._closed = True
        streams, self._streams = tuple(self._streams.values()), {}
        for stream in streams:
            await stream.close()
        channel, self._channel, self._methods = self._channel, None, None
        if channel is not None:
            await channel.close()

    async def status(self) -> ServerStatus:
        """Ask how the server is: it is ready where it lists a model.

        Raises:
            ServerUnavailableError: nobody answers.
        """
        return ServerStatus(self.host, True, bool(await self.cards()), messages.ENGINE, "")

    async def cards(self) -> tuple[ModelCard, ...]:
        """A card for each model that the server lists, named ``riva/NAME``, and ``riva/diarizer``.

        Raises:
            ServerUnavailableError: nobody answers.
        """
        request = RivaSpeechRecognitionConfigRequest(model_name=self._settings.model)
        call = Call(self.host, limit_s=QUESTION_LIMIT_S)
        answer = await self._attempt(lambda stub: stub.GetRivaSpeechRecognitionConfig, request, call)
        if isinstance(answer, Failure):
            raise answer.error
        found = messages.cards(answer, self._settings)
        self._cards = {(card.name, card.task): card for card in found}
        return found

    async def recognize(
        self,
        model: str,
        samples: Samples,
        options: RecognitionOptions,
        *,
        version: str = "",
        pcm16: bool = False,
    ) -> Recognition:
        """Recognise one recording; 16-bit samples are sent in any case.

        Raises:
            ServiceError: the subclass says what happened; `riva_failures` lists them.
        """
        if not len(samples):
            return Recognition((), primary_tag(options.language or ""), times_estimated=False)
        language = messages.language_code(self._cards.get((model, Task.RECOGNIZE)), options.language)
        config = messages.config(self._settings, messages.name_of(model), language)
        response = await self._recognize(model, samples, config)
        return messages.recognition(response, samples, options.language)

    async def detect_language(self, model: str, samples: Samples) -> LanguageGuess:
        """Riva says what language it heard, but not how sure it is.

        Raises:
            InvalidRequestError: always.
        """
        raise self._cannot("say how sure it is of a language")

    async def diarize(
        self, model: str, samples: Samples, options: DiarizationOptions, *, version: str = ""
    ) -> Diarization:
        """Find out who spoke when in one recording, from the speakers of its words.

        Raises:
            InvalidRequestError: it is a window of a live stream: Riva gives no embeddings of speakers.
            ServiceError: the subclass says what happened; `riva_failures` lists them.
        """
        if options.mode == "local":
            raise self._cannot("name the speakers of a live stream")
        config = messages.config(
            self._settings,
            self._settings.model,
            messages.language_code(self._first_recogniser(), None),
            speakers=messages.speakers_wanted(options, self._settings),
        )
        return messages.diarization(await self._recognize(model, samples, config))

    async def stream_chunk(
        self, model: str, chunk: WireChunk, *, version: str = "", timeout_s: float
    ) -> StreamUpdate:
        """Send one chunk of a live stream; tried once, as only the stream's owner knows how to go on.

        Raises:
            StreamLostError: the stream is not open.
            ServiceError: the subclass says what happened; `riva_failures` lists them.
        """
        call = Call(self.host, model, limit_s=timeout_s)
        try:
            with anyio.fail_after(timeout_s):
                if chunk.start:
                    await self._drop(chunk.sequence)
                    self._streams[chunk.sequence] = await self._open(model, chunk)
                stream = self._streams.get(chunk.sequence)
                if stream is None:
                    raise StreamLostError(
                        f"{self.host} does not have this stream of {model}.",
                        fix="open it again; the client library does so, and sends what was not final.",
                        host=self.host,
                        model=model,
                    )
                update = await stream.hear(chunk)
        except TimeoutError as error:
            await self._drop(chunk.sequence)
            raise failures.timed_out(call) from error
        except grpc.aio.AioRpcError as error:
            await self._drop(chunk.sequence)
            if self._closed:
                raise closed_error(self.host) from error
            raise failures.from_status(error.code(), error.details(), call).error from error
        except (grpc.aio.UsageError, asyncio.InvalidStateError, asyncio.CancelledError) as error:
            await self._drop(chunk.sequence)
            await self._cancelled()
            raise failures.unavailable(call, "the call was ended") from error
        if chunk.end:
            await self._drop(chunk.sequence)
        return update

    async def _open(self, model: str, chunk: WireChunk) -> RivaStream:
        wanted = chunk.options if isinstance(chunk.options, StreamOptions) else StreamOptions()
        language = messages.language_code(self._cards.get((model, Task.STREAM)), wanted.language)
        first = StreamingRecognizeRequest(
            streaming_config=StreamingRecognitionConfig(
                config=messages.config(
                    self._settings, messages.name_of(model), language, endpointing=wanted.endpointing
                ),
                interim_results=wanted.partials,
            )
        )
        spoken = "" if wanted.language is None else primary_tag(wanted.language)
        stream = RivaStream(self._stub().StreamingRecognize(metadata=self._metadata), RivaResults(spoken))
        try:
            await stream.open(first)
        except BaseException:
            await stream.close()
            raise
        return stream

    async def _drop(self, sequence: int) -> None:
        stream = self._streams.pop(sequence, None)
        if stream is not None:
            with anyio.CancelScope(shield=True):
                await stream.close()

    async def _recognize(self, model: str, samples: Samples, config: RecognitionConfig) -> RecognizeResponse:
        limit_s = self._timeout_s + len(samples) / SAMPLE_RATE_HZ
        call = Call(self.host, model, limit_s=limit_s)
        size, most = codec.request_bytes(len(samples), pcm16=True), self._settings.max_message_bytes
        if size > most:
            raise failures.too_large(
                call, f"{len(samples) / SAMPLE_RATE_HZ:.0f} s of audio are more than {most} bytes."
            )
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._settings.max_concurrency)
        attempt = 0
        while True:
            async with self._limiter:
                request = RecognizeRequest(config=config, audio=codec.to_pcm16(samples).tobytes())
                answer = await self._attempt(lambda stub: stub.Recognize, request, call)
            if not isinstance(answer, Failure):
                response: RecognizeResponse = answer
                return response
            wait_s = self._retry.wait_s(attempt) if answer.transient else None
            if wait_s is None or anyio.current_time() + wait_s > anyio.current_effective_deadline():
                raise answer.error
            logger.info("%s: next try in %.2f s: %s", self.host, wait_s, answer.error.message)
            attempt += 1
            await anyio.sleep(wait_s)

    async def _attempt(
        self, method: Callable[[Any], Callable[..., Awaitable[Any]]], request: object, call: Call
    ) -> Any:
        """The answer of one call, or a `Failure`."""
        try:
            return await method(self._stub())(request, timeout=left_s(call.limit_s), metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            if self._closed:
                raise closed_error(self.host) from error
            return failures.from_status(error.code(), error.details(), call)
        except (grpc.aio.UsageError, asyncio.CancelledError) as error:
            await self._cancelled()
            raise closed_error(self.host) from error

    async def _cancelled(self) -> None:
        """Pass a cancellation on that is the caller's; return where the call alone was ended.

        gRPC raises an exception of its own, which lacks the mark by which a scope of anyio knows what it
        cancelled.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        if self._closed:
            raise closed_error(self.host)

    def _first_recogniser(self) -> ModelCard | None:
        return next((card for card in self._cards.values() if card.task is Task.RECOGNIZE), None)

    def _stub(self) -> Any:
        if self._closed:
            raise closed_error(self.host)
        if self._methods is None:
            self._channel = open_channel(self.host, tls=self._tls, authorities=self._authorities)
            self._methods = RivaSpeechRecognitionStub(self._channel)
        return self._methods


def _pem(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"The certificates of riva.tls_ca cannot be read: {error.strerror}.",
            fix="name a PEM file.",
            path=path,
        ) from error
