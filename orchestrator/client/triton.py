"""The transport: Triton's gRPC, asynchronous, with limits, retries and the project's errors.

Retries follow `RetryPolicy`, only where the failure is one that time can heal (the server is away, its queue
is full), and only while the caller's own deadline leaves room for the wait. Cancelling the task cancels the
request on the server. grpc.aio needs asyncio, and one object serves one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio
import anyio.lowlevel
import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from orchestrator import contract
from orchestrator.client import codec, failures
from orchestrator.client.catalog import IndexEntry, ModelCard, ServedConfig, card
from orchestrator.client.channel import left_s, open_channel, parse_url
from orchestrator.client.concurrent import gather
from orchestrator.client.failures import Call, Failure
from orchestrator.client.retry import RetryPolicy
from orchestrator.client.stream import codec as stream_codec
from orchestrator.client.stream.codec import WireChunk
from orchestrator.diarization.base import Diarization, DiarizationOptions
from orchestrator.engines.alignment.base import Alignment, AlignmentOptions
from orchestrator.engines.base import LanguageGuess, Recognition, RecognitionOptions, Samples
from orchestrator.engines.streaming import StreamUpdate
from orchestrator.errors import (
    ModelNotFoundError,
    ModelNotReadyError,
    ServerUnavailableError,
    ServiceError,
    SpeechError,
)
from orchestrator.tracing import span

QUESTION_LIMIT_S: Final = 10.0
"""Time limit of a question about the server, in seconds: it answers those without any model."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What a server says of itself."""

    host: str
    live: bool
    ready: bool
    """All models that it was told to load are loaded."""
    name: str
    version: str


_Method = Callable[..., Awaitable[Any]]


class TritonTransport:
    """One connection to one Triton server."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        max_concurrency: int,
        retry: RetryPolicy | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Connect lazily: the first call opens the connection.

        Args:
            url: see `parse_url`.
            timeout_s: limit of one attempt in seconds; an inference gets the duration of its audio on top,
                because a model may work at the speed of the recording.
            max_concurrency: inferences of one model in flight at once; the others wait their turn here. Once
                `cards` was asked, no more than the model's batches can hold.
            retry: how often to try again.
            metadata: gRPC headers sent with each call, such as the secret of a restricted protocol.

        Raises:
            ConfigurationError: ``url`` is not an address.
        """
        self.host, self._tls = parse_url(url)
        self._timeout_s = timeout_s
        self._max_concurrency = max_concurrency
        self._limiters: dict[str, anyio.CapacityLimiter] = {}
        self._retry = retry or RetryPolicy()
        self._metadata = tuple((key.lower(), value) for key, value in (metadata or {}).items())
        self._channel: grpc.aio.Channel | None = None
        self._methods: service_pb2_grpc.GRPCInferenceServiceStub | None = None
        self._closed = False

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled. Safe to call again."""
        self._closed = True
        channel, self._channel, self._methods = self._channel, None, None
        if channel is not None:
            await channel.close()

    async def status(self) -> ServerStatus:
        """Ask how the server is.

        Raises:
            ServerUnavailableError: nobody answers.
        """
        stub = self._stub()
        live = await self._ask(stub.ServerLive, service_pb2.ServerLiveRequest())
        ready = await self._ask(stub.ServerReady, service_pb2.ServerReadyRequest())
        told = await self._ask(stub.ServerMetadata, service_pb2.ServerMetadataRequest())
        return ServerStatus(self.host, live.live, ready.ready, told.name, told.version)

    async def cards(self) -> tuple[ModelCard, ...]:
        """A card for each model in the server's repository, by name.

        Raises:
            ServerUnavailableError: nobody answers.
        """
        index = await self._ask(self._stub().RepositoryIndex, service_pb2.RepositoryIndexRequest())
        entries: dict[str, list[IndexEntry]] = {}
        for model in index.models:
            entries.setdefault(model.name, []).append(
                IndexEntry(model.name, model.version, model.state, model.reason)
            )

        async def read(name: str) -> ModelCard:
            lines = entries[name]
            ready = any(line.state == "READY" for line in lines)
            return card(name, lines, await self._config(name) if ready else None)

        cards = await gather(*(lambda name=name: read(name) for name in sorted(entries)))
        for found in cards:
            most = min(found.max_in_flight, self._max_concurrency)
            if found.ready and self._limiter(found.name).total_tokens != most:
                self._limiters[found.name] = anyio.CapacityLimiter(most)
        return tuple(cards)

    def _limiter(self, model: str) -> anyio.CapacityLimiter:
        """What bounds the requests to one model: a slow one must not take another's turns."""
        return self._limiters.setdefault(model, anyio.CapacityLimiter(self._max_concurrency))

    async def recognize(
        self,
        model: str,
        samples: Samples,
        options: RecognitionOptions,
        *,
        version: str = "",
        pcm16: bool = False,
    ) -> Recognition:
        """Recognise one recording of at most the model's window.

        Args:
            model: the recogniser.
            samples: float32 ``[n]`` at 16 kHz.
            options: what to ask of it.
            version: one version, or empty for the one the server prefers.
            pcm16: send 16-bit samples; only to a model that takes them (`ModelCard.takes_pcm16`).

        Raises:
            ServiceError: the subclass says what happened; `orchestrator.client.failures` lists them.
            UnsupportedLanguageError: the model does not know the language.
        """
        response = await self._infer(model, version, samples, options, contract.RECOGNIZER, pcm16=pcm16)
        return codec.decode_recognition(response, self.host)

    async def detect_language(self, model: str, samples: Samples) -> LanguageGuess:
        """Find out what is spoken; only of a model that can (`ModelCard.detects_language`).

        Raises:
            ServiceError: the subclass says what happened; `orchestrator.client.failures` lists them.
        """
        options = RecognitionOptions(detect_only=True)
        return codec.decode_language(
            await self._infer(model, "", samples, options, contract.DETECTOR), self.host
        )

    async def diarize(
        self, model: str, samples: Samples, options: DiarizationOptions, *, version: str = ""
    ) -> Diarization:
        """Find out who spoke when in one recording.

        Raises:
            ServiceError: the subclass says what happened; `orchestrator.client.failures` lists them.
        """
        response = await self._infer(model, version, samples, options, contract.DIARIZER)
        return codec.decode_diarization(response, self.host)

    async def align(
        self,
        model: str,
        samples: Samples,
        words: Sequence[str],
        options: AlignmentOptions,
        *,
        pcm16: bool = False,
    ) -> Alignment:
        """Find out when each of ``words`` was said in one recording of at most the model's window.

        Raises:
            ServiceError: the subclass says what happened; `orchestrator.client.failures` lists them.
            UnsupportedLanguageError: the model does not know the language.
        """
        response = await self._infer(model, "", samples, options, contract.ALIGNER, pcm16=pcm16, words=words)
        return codec.decode_alignment(response, len(words), self.host)

    async def stream_chunk(
        self, model: str, chunk: WireChunk, *, version: str = "", timeout_s: float
    ) -> StreamUpdate:
        """Send one chunk of a live stream; tried once, as only the stream's owner knows how to go on.

        Does not count against ``max_concurrency``: a stream has one request in flight and must not wait for
        recordings.

        Args:
            model: the streaming model.
            chunk: the audio and its place in the stream.
            version: one version, or empty for the one the server prefers.
            timeout_s: limit in seconds.

        Raises:
            StreamLimitError: the server has as many streams as it was set up for.
            StreamLostError: the server does not know the stream (any more).
            ServiceError: the subclass says what happened; `orchestrator.client.failures` lists them.
            UnsupportedLanguageError: the model does not know the language.
        """
        request = stream_codec.encode(model, version, chunk)
        call = Call(self.host, model, version, timeout_s)
        try:
            response = await self._attempt(
                self._stub().ModelInfer, request, call, (contract.SEQUENCE_HEADER, str(chunk.sequence))
            )
        except _AttemptError as failed:
            raise failed.failure.error from failed.__cause__
        return stream_codec.decode(response, self.host)

    async def _infer(
        self,
        model: str,
        version: str,
        samples: Samples,
        options: RecognitionOptions | DiarizationOptions | AlignmentOptions,
        outputs: contract.ModelContract,
        *,
        pcm16: bool = False,
        words: Sequence[str] | None = None,
    ) -> service_pb2.ModelInferResponse:
        limit_s = self._timeout_s + len(samples) / contract.SAMPLE_RATE_HZ
        call = Call(self.host, model, version, limit_s)
        size = codec.request_bytes(len(samples), pcm16=pcm16)
        if size > codec.MAX_MESSAGE_BYTES:
            minutes = len(samples) / contract.SAMPLE_RATE_HZ / 60
            raise failures.too_large(
                call,
                f"{minutes:.0f} minutes of audio for {model} are {size / 2**30:.1f} GiB, "
                "more than the 2 GiB that gRPC can carry.",
            )
        first: SpeechError | None = None
        attempt = 0
        while True:
            try:
                limiter = self._limiter(model)
                with span("queue", model=model):
                    await limiter.acquire()
                try:
                    # Built inside the limit, so that waiting requests hold no copy of their audio.
                    request = codec.encode(
                        model, version, samples, options, outputs, pcm16=pcm16, words=words
                    )
                    with span("upstream infer", kind="client", model=model, upstream=self.host):
                        return await self._attempt(self._stub().ModelInfer, request, call)
                finally:
                    limiter.release()
            except _AttemptError as failed:
                error, cause = failed.failure.error, failed.__cause__
                # A server that comes back says "not ready" until its models are loaded.
                loading = isinstance(first, ServerUnavailableError) and isinstance(error, ModelNotReadyError)
                wait_s = self._retry.wait_s(attempt) if failed.failure.transient or loading else None
            if wait_s is None or anyio.current_time() + wait_s > anyio.current_effective_deadline():
                raise error from cause
            first = first or error
            attempt += 1
            await anyio.sleep(wait_s)

    async def _config(self, model: str) -> ServedConfig | None:
        """A model's configuration; None if it was unloaded meanwhile."""
        try:
            answer = await self._ask(
                self._stub().ModelConfig, service_pb2.ModelConfigRequest(name=model), model=model
            )
        except (ModelNotFoundError, ModelNotReadyError):
            return None
        config = answer.config
        return ServedConfig(
            parameters={key: value.string_value for key, value in config.parameters.items()},
            inputs=frozenset(tensor.name for tensor in config.input),
            max_batch_size=config.max_batch_size,
            instances=max(1, sum(group.count for group in config.instance_group)),
        )

    async def _ask(self, method: _Method, request: object, model: str | None = None) -> Any:
        """A question about the server: tried once, so that a caller learns at once how things are."""
        try:
            return await self._attempt(method, request, Call(self.host, model, limit_s=QUESTION_LIMIT_S))
        except _AttemptError as failed:
            raise failed.failure.error from failed.__cause__

    async def _attempt(self, method: _Method, request: object, call: Call, *headers: tuple[str, str]) -> Any:
        metadata = (*self._metadata, *headers)
        try:
            return await method(request, timeout=left_s(call.limit_s), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise _AttemptError(failures.from_status(error.code(), error.details(), call)) from error
        except (grpc.aio.UsageError, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                # gRPC raises an exception of its own, which lacks the mark by which a scope of anyio knows
                # what it cancelled: the scope would let it pass, and end the caller's task.
                await anyio.lowlevel.checkpoint_if_cancelled()
                raise
            # The channel was closed under the call: nobody cancelled *this* task.
            raise closed_error(self.host) from error

    def _stub(self) -> service_pb2_grpc.GRPCInferenceServiceStub:
        if self._closed:
            raise closed_error(self.host)
        if self._methods is None:  # made once: it has two dozen methods, as dear as a whole call
            self._channel = open_channel(self.host, tls=self._tls)
            self._methods = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        return self._methods


class _AttemptError(Exception):
    """One attempt failed; never leaves this module."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error.message)
        self.failure = failure


def closed_error(host: str) -> ServiceError:
    """The client was closed before or during the call."""
    return ServiceError(
        f"This client of {host} is closed.",
        fix="make a new client, and close it after its last call.",
        host=host,
    )
