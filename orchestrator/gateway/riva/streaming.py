"""One StreamingRecognize call: messages of audio in, one answer to each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Final

import grpc
from riva.client.proto.riva_asr_pb2 import StreamingRecognizeRequest, StreamingRecognizeResponse

from orchestrator.errors import RequestTimeoutError
from orchestrator.gateway.listening import Listener
from orchestrator.gateway.live import LiveJob
from orchestrator.gateway.metrics import GatewayMetrics
from orchestrator.gateway.riva.calls import Note
from orchestrator.gateway.riva.errors import refuse
from orchestrator.gateway.riva.request import check_known, flag, parse
from orchestrator.gateway.riva.results import Results
from orchestrator.gateway.service import SpeechService

_CONFIG: Final = "streaming_config"
_AUDIO: Final = "audio_content"


class Conversation:
    """The messages of one call, until its end."""

    def __init__(
        self,
        context: Any,
        service: SpeechService,
        metrics: GatewayMetrics,
        note: Note,
        idle_s: float,
    ) -> None:
        """Prepare.

        Args:
            context: the call; ``read`` and ``write`` of `grpc.aio.ServicerContext`.
            service: what recognises.
            metrics: where the time of answers goes.
            note: what is logged of the call.
            idle_s: how long the caller may send nothing, or take no answer.
        """
        self._context = context
        self._service = service
        self._metrics = metrics
        self._note = note
        self._idle_s = idle_s

    async def run(self) -> None:
        """Read until the caller has sent everything; answer each message of audio, and the end.

        Raises:
            RpcError: a message is wrong, or not in its place.
            SpeechError: recognition failed; the subclass says why.
        """
        first = await self._read()
        if first is None or first.WhichOneof("streaming_request") != _CONFIG:
            what = "the stream ended" if first is None else "audio came"
            raise refuse(_CONFIG, f"{what} before it; it is the first message.")
        check_known(first)
        self._note.request_id = first.id.value
        ask = parse(first.streaming_config.config)
        runtime_options(first.runtime_config)
        job = LiveJob(
            model=ask.model,
            language=ask.language,
            partials=first.streaming_config.interim_results,
            speakers=ask.max_speakers is not None,
            max_speakers=ask.max_speakers,
            endpointing=ask.endpointing,
        )
        live = self._service.stream(job)
        try:
            await self._listen(Listener(live, ask.audio), Results(ask), first)
        finally:
            await live.close()

    async def _listen(self, listener: Listener, writer: Results, first: Any) -> None:
        latest = first
        while (message := await self._read()) is not None:
            started = monotonic()
            latest = message
            check_known(message)
            if message.WhichOneof("streaming_request") == _CONFIG:
                raise refuse(_CONFIG, "there is one already; it is the first message only.")
            forced = runtime_options(message.runtime_config)
            self._note.bytes_in += len(message.audio_content)
            events = await listener.hear(message.audio_content, end_utterance=forced)
            self._note.audio_s = listener.received_s
            await self._write(message, writer.live(events, listener.language, listener.received_s))
            self._metrics.stream_response.observe(monotonic() - started)
        events, failure = await listener.finish()
        results = writer.live(events, listener.language, listener.received_s)
        self._note.audio_s = listener.received_s
        self._metrics.audio_seconds.inc(listener.received_s)
        if results:
            await self._write(latest, results)
        if failure is not None:
            raise failure

    async def _read(self) -> Any:
        """The next message; None at the end."""
        async with self._patience("sent nothing"):
            message = await self._context.read()
        return None if message is grpc.aio.EOF else message

    async def _write(self, asked: StreamingRecognizeRequest, results: Sequence[Any]) -> None:
        response = StreamingRecognizeResponse(results=results)
        if asked.HasField("id"):
            response.id.CopyFrom(asked.id)
        async with self._patience("took no answer"):
            await self._context.write(response)

    @asynccontextmanager
    async def _patience(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._idle_s):
                yield
        except TimeoutError as error:
            raise RequestTimeoutError(
                f"The stream's caller has {what} for {self._idle_s:g} s.",
                fix="send silence, or end the stream.",
            ) from error


def runtime_options(options: Mapping[str, str]) -> bool:
    """Whether the utterance is to end with this message's audio.

    Raises:
        RpcError: an option is not known, or not a boolean.
    """
    forced = False
    for key, value in options.items():
        name = f"runtime_config[{key[:64]!r}]"
        if key != "force_eou":
            raise refuse(name, "there is no such option; there is force_eou.")
        forced = flag(name, value)
    return forced
