"""`AsyncSpeechClient`: recordings in, transcripts out, over one Triton server."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

import anyio
import anyio.to_thread
from typing_extensions import Unpack

from orchestrator.audio import Audio, Source, decode
from orchestrator.client.alignment import WordTimer, aligner_of
from orchestrator.client.batch import BatchArgs, FileResult, run_batch
from orchestrator.client.catalog import ModelCard
from orchestrator.client.engines import outside
from orchestrator.client.engines.board import EngineBoard, may_go_elsewhere
from orchestrator.client.engines.switchboard import Switchboard
from orchestrator.client.failures import Call, timed_out
from orchestrator.client.job import Job
from orchestrator.client.options import TranscribeArgs, TranscribeOptions
from orchestrator.client.pool import UpstreamPool
from orchestrator.client.retry import RetryPolicy
from orchestrator.client.routing import AUTO, Decision, RouteJob, decide, diarizers
from orchestrator.client.routing.breaker import State
from orchestrator.client.stream import sources
from orchestrator.client.stream.live import LiveStream
from orchestrator.client.stream.options import StreamArgs, StreamRequest
from orchestrator.client.stream.session import Route, Session
from orchestrator.client.stream.sources import StreamSource
from orchestrator.client.stream.speakers import LiveSpeakers, SpeakerOptions
from orchestrator.client.transport import SpeechTransport
from orchestrator.client.triton import ServerStatus, TritonTransport
from orchestrator.contract import SAMPLE_RATE_HZ, Task
from orchestrator.diarization.online import OnlineOptions
from orchestrator.engines.base import LanguageGuess
from orchestrator.errors import (
    ModelNotFoundError,
    ModelNotReadyError,
    RequestTimeoutError,
    ServerUnavailableError,
    ServiceError,
    SpeechError,
    UnsupportedLanguageError,
)
from orchestrator.progress import ProgressReporter, SilentProgress
from orchestrator.settings import Settings
from orchestrator.transcript.models import Transcript

logger = logging.getLogger(__name__)

_CATALOG_AGE_S: Final = 30.0
"""How long what a server offers is believed, in seconds."""
_POLL_S: Final = 0.5
"""How often `wait_ready` asks, in seconds."""
Result = TypeVar("Result")


class AsyncSpeechClient:
    """Transcribes recordings with the models of one Triton server. Use it on one asyncio event loop.

    ::

        async with AsyncSpeechClient("spark:8001") as client:
            transcript = await client.transcribe("meeting.wav", num_speakers=3)
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        settings: Settings | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Make a client; the connection is opened by the first call.

        Args:
            url: ``host:port`` of Triton's gRPC (``grpcs://host:port`` for TLS); ``settings.client.url`` if
                left out. Several of them are servers of the same release that share the work: what one is
                lost under goes on at another.
            settings: limits and defaults; the built-in ones if left out: the environment is not read.
            metadata: gRPC headers for each call, such as the secret of a restricted protocol.

        Raises:
            ConfigurationError: ``url`` is not an address, or names one twice.
        """
        self._settings = settings or Settings()
        client = self._settings.client
        urls = [url or client.url] if url is None or isinstance(url, str) else list(url)
        self._pool: UpstreamPool | None = None
        triton: SpeechTransport
        if len(urls) == 1:
            triton = TritonTransport(
                urls[0],
                timeout_s=client.timeout_s,
                max_concurrency=client.max_concurrency,
                retry=RetryPolicy(client.retries),
                metadata=metadata,
            )
        else:
            triton = self._pool = UpstreamPool(
                urls,
                timeout_s=client.timeout_s,
                max_concurrency=client.max_concurrency,
                retry=RetryPolicy(client.retries),
                metadata=metadata,
            )
        others = outside.transports(self._settings)
        self._switchboard = Switchboard(triton, others) if others else None
        self._transport = self._switchboard or triton
        self._board = EngineBoard(self._settings.routing)
        self._cards: tuple[ModelCard, ...] = ()
        self._cards_until = -1.0
        self._sessions: set[Session] = set()

    @property
    def host(self) -> str:
        """The server, ``host:port``; several with commas."""
        return self._transport.host

    @property
    def outstanding(self) -> dict[str, int]:
        """Requests and streams in work at each of several servers that is there; empty for a single one."""
        return {} if self._pool is None else self._pool.outstanding()

    def breakers(self) -> dict[str, State]:
        """The circuit breaker of each engine that was asked before; call it on the client's event loop."""
        return self._board.states()

    async def __aenter__(self) -> AsyncSpeechClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; streams end, calls still running fail. Safe to call again."""
        for session in tuple(self._sessions):
            await session.aclose()
        await self._transport.close()

    async def server_status(self) -> ServerStatus:
        """How the server is.

        Raises:
            ServerUnavailableError: nobody answers at the address.
        """
        return await self._transport.status()

    async def models(self) -> tuple[ModelCard, ...]:
        """What the server offers, by name, loaded or not.

        Raises:
            ServerUnavailableError: nobody answers at the address.
        """
        self._cards = await self._transport.cards()
        self._cards_until = anyio.current_time() + _CATALOG_AGE_S
        return self._cards

    async def wait_ready(
        self, models: Sequence[str] = (), *, timeout: float | None = None
    ) -> tuple[ModelCard, ...]:
        """Wait until the server is ready and all of ``models`` are loaded; then what `models` returns.

        Args:
            models: names of models; empty: at least one model.
            timeout: in seconds; ``settings.server.ready_timeout_s`` if left out.

        Raises:
            ServerUnavailableError: the server was not there until the end of the time.
            ModelNotReadyError: the server was there, but not all of its models.
        """
        limit_s = self._settings.server.ready_timeout_s if timeout is None else timeout
        last: SpeechError = ServerUnavailableError(
            f"{self.host} did not answer within {limit_s:.3g} s.",
            fix="start it with `spark-speech up`.",
            host=self.host,
        )
        with anyio.move_on_after(limit_s):
            while True:
                try:
                    return await self._ready_models(models)
                except (ServerUnavailableError, ModelNotReadyError, RequestTimeoutError) as error:
                    last = error
                await anyio.sleep(_POLL_S)
        raise last

    async def _ready_models(self, wanted: Sequence[str]) -> tuple[ModelCard, ...]:
        status = await self._transport.status()
        cards = await self.models()
        ready = {card.name for card in cards if card.ready}
        missing = [name for name in wanted if name not in ready]
        if status.ready and ready and not missing:
            return cards
        what = ", ".join(missing) or "any model" if status.live else "the server"
        raise ModelNotReadyError(
            f"{self.host} has not loaded {what} yet.",
            fix="wait longer, or see the server's log.",
            host=self.host,
            model=missing[0] if missing else None,
        )

    async def transcribe(
        self, source: Source, *, progress: ProgressReporter | None = None, **options: Unpack[TranscribeArgs]
    ) -> Transcript:
        """What was said in ``source``, by whom and when.

        Args:
            source: a path, the bytes of a file, or samples: an array ``[n]`` or ``[channels, n]`` (with
                ``sample_rate``).
            progress: where to say how far it is.
            **options: `TranscribeArgs`.

        Raises:
            ConfigurationError: an option is unknown or outside its range.
            AudioError: the recording cannot be used; the subclass says why.
            UnsupportedLanguageError: no model of the server knows the language.
            ServiceError: the server failed; the subclass says how.
        """
        chosen = TranscribeOptions.parse(options)
        return await self._within(chosen.timeout, partial(self._transcribe, source, chosen, progress))

    def stream(self, source: StreamSource, **options: Unpack[StreamArgs]) -> LiveStream:
        """What is being said in ``source``, as it is said.

        ::

            async for event in client.stream("meeting.wav", language="en"):
                if isinstance(event, Final):
                    print(event.segment.text)

        A server that goes away is looked for (``client.stream_reconnect_s``), and gets what was not final
        again: no word is lost and no final is repeated.

        Args:
            source: a path (sent at the speed of speech unless ``pace="fast"``), a `Microphone`, samples
                ``[n]``, or an iterator, asynchronous or not, of bytes (16-bit PCM, mono) or arrays (int16, or
                floats in +-1) of any sizes at ``sample_rate``. It is asked for more only while the server
                keeps up.
            **options: `StreamArgs`.

        Returns:
            The events, to iterate over: `Partial`, `Final`, `SpeakerChange`, `Reconnected`, and `Completed`
            as the last.

        Raises:
            ConfigurationError: an option is unknown or outside its range.
            AudioError: the source cannot be one; while iterating: its audio cannot be used. What it gave
                before becomes final first.
            ModelNotFoundError: while iterating, as the following: the server has no streaming model.
            UnsupportedLanguageError: no streaming model knows the language.
            StreamLimitError: the server has as many streams as it was set up for.
            ServiceError: the server failed, or did not come back in time.
        """
        request = StreamRequest.parse(options)
        sources.check(source)
        return LiveStream(
            Session(
                self._transport,
                self._settings,
                source,
                request,
                partial(self._route_stream, request),
                self._sessions,
            )
        )

    async def transcribe_many(
        self, sources: Sequence[str | Path], output_dir: str | Path, **options: Unpack[BatchArgs]
    ) -> list[FileResult]:
        """Transcribe files into ``output_dir``; what an earlier run finished is not done again.

        A file that fails is reported in its `FileResult`, and the others go on.

        Args:
            sources: audio files.
            output_dir: made if it is not there.
            **options: `BatchArgs`: formats, and everything that `transcribe` takes.

        Raises:
            ConfigurationError: an option is wrong, or ``output_dir`` cannot be written.
        """
        return await run_batch(self.transcribe, sources, output_dir, options)

    async def _within(self, timeout_s: float | None, job: Callable[[], Awaitable[Result]]) -> Result:
        if timeout_s is None:
            return await job()
        try:
            with anyio.fail_after(timeout_s):
                return await job()
        except TimeoutError as error:
            raise timed_out(Call(self.host, limit_s=timeout_s)) from error

    async def _transcribe(
        self, source: Source, options: TranscribeOptions, progress: ProgressReporter | None
    ) -> Transcript:
        work = partial(
            decode,
            source,
            channels=options.channels,
            sample_rate=options.sample_rate,
            limits=self._settings.audio,
        )
        recording = await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        decision = await self._route(options, recording)
        diarizers = self._diarizers(options)
        logger.debug("%s: %s", recording.name, decision.candidates[0].why)
        job = Job(
            self._transport,
            self._settings.client,
            options,
            self._board,
            decision,
            diarizers,
            self._timer(options),
        )
        task = (progress or SilentProgress()).task(recording.name or "recording")
        try:
            transcript = await job.run(recording, task)
        except ServiceError:
            self._cards_until = -1.0  # what a server offers may have changed with it
            raise
        if transcript.routing is not None and transcript.routing.failed:
            self._cards_until = -1.0
        task.finish()
        return transcript

    async def _route(self, options: TranscribeOptions, recording: Audio) -> Decision:
        """Who recognises a recording, and then who names its speakers is known too."""

        def choose() -> Decision:
            self._diarizers(options)  # a missing one is found before any work is done
            return self._decide(job)

        job = RouteJob(
            language=options.language,
            engine=options.engine,
            duration_s=recording.duration_s,
            diarize=options.diarize,
        )
        decision = await self._routed(choose)
        guess = await self._guess(job, decision, recording)
        if guess is None:
            return decision
        sure = guess.confidence >= self._settings.routing.detect_threshold
        job = replace(job, language=guess.language if sure else None, confidence=guess.confidence)
        try:
            return choose()
        except (ModelNotFoundError, ModelNotReadyError, UnsupportedLanguageError):
            return decision  # heard, but nobody knows it: whoever takes any language has a try

    async def _guess(self, job: RouteJob, decision: Decision, recording: Audio) -> LanguageGuess | None:
        """What language a recording is in, where that may matter and somebody can tell."""
        routing = self._settings.routing
        detectors = [card for card in decision.cards if card.detects_language]
        if job.language is not None or job.engine != AUTO or not routing.detect or not detectors:
            return None
        if sum(card.ready and card.task is Task.RECOGNIZE for card in self._cards) < 2:
            return None  # there is nothing to choose, and it finds out by itself
        samples = recording.samples[0][: int(routing.detect_s * SAMPLE_RATE_HZ)]
        try:
            done = await self._board.first(
                detectors, lambda card: self._transport.detect_language(card.name, samples)
            )
        except SpeechError as error:
            if not may_go_elsewhere(error):
                raise
            logger.info("%s: the language could not be found out: %s", recording.name, error)
            return None
        return done.result

    def _decide(self, job: RouteJob) -> Decision:
        away = {} if self._switchboard is None else self._switchboard.away
        conditions = self._board.conditions(self._cards, away)
        return decide(self._cards, job, self._settings.routing, conditions, host=self.host)

    def _timer(self, options: TranscribeOptions) -> WordTimer | None:
        """What measures word times; None where that is not wanted, or not to be had and not asked for."""
        routing = self._settings.routing
        card = aligner_of(self._cards)
        wanted = (routing.align and card is not None) if options.align is None else options.align
        return WordTimer(self._transport, self._board, card, routing.align_s) if wanted else None

    def _diarizers(self, options: TranscribeOptions) -> tuple[ModelCard, ...]:
        wanted = options.diarize and options.channels == "mix"
        return diarizers(self._cards, host=self.host) if wanted else ()

    async def _route_stream(self, request: StreamRequest) -> Route:
        return await self._routed(partial(self._choose_stream, request))

    async def _routed(self, choose: Callable[[], Result]) -> Result:
        """The models for a job; asks the server again before saying that it cannot do it."""
        fresh = anyio.current_time() >= self._cards_until
        if fresh:
            await self.models()
        try:
            return choose()
        except (ModelNotFoundError, ModelNotReadyError, UnsupportedLanguageError):
            if fresh:
                raise
        await self.models()
        return choose()

    def _choose_stream(self, request: StreamRequest) -> Route:
        decision = self._decide(
            RouteJob(
                task=Task.STREAM,
                language=request.language,
                engine=request.engine,
                diarize=bool(request.diarize),
            )
        )
        logger.debug("stream: %s", decision.candidates[0].why)
        return Route(decision, self._board, self._speakers(request))

    def _speakers(self, request: StreamRequest) -> LiveSpeakers | None:
        """What names the speakers of a stream, if that is wanted and there is a diarizer."""
        if request.diarize is False:
            return None
        try:
            able = [card for card in self._cards if card.embeds]
            diarizer = diarizers(able, host=self.host)[0]
        except (ModelNotFoundError, ModelNotReadyError):
            if request.diarize:
                raise
            return None
        client = self._settings.client
        online = OnlineOptions(horizon_s=client.speaker_horizon_s)
        if request.max_speakers is not None:
            online = online.model_copy(update={"max_speakers": request.max_speakers})
        options = SpeakerOptions(
            wait_s=client.speaker_wait_s,
            relabel=request.relabel,
            relabel_max_s=client.relabel_max_s,
            online=online,
        )
        return LiveSpeakers(partial(self._transport.diarize, diarizer.name), options)
