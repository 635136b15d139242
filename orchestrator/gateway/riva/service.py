"""The calls of ``nvidia.riva.asr.RivaSpeechRecognition``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import Any

import anyio
import anyio.to_thread
from riva.client.proto.riva_asr_pb2 import (
    RecognizeRequest,
    RecognizeResponse,
    RivaSpeechRecognitionConfigRequest,
    RivaSpeechRecognitionConfigResponse,
)
from riva.client.proto.riva_asr_pb2_grpc import RivaSpeechRecognitionServicer

from orchestrator.audio import Audio, PcmFormat, decode
from orchestrator.errors import RequestTimeoutError
from orchestrator.gateway.admission import Admission
from orchestrator.gateway.intake.intake import check_header, raw_format
from orchestrator.gateway.intake.sniff import AudioSpec, Container, container_of
from orchestrator.gateway.keys import ANYBODY, ApiKeys, Caller
from orchestrator.gateway.metrics import GatewayMetrics
from orchestrator.gateway.riva.calls import Calls, Note, shown_key
from orchestrator.gateway.riva.catalog import configs
from orchestrator.gateway.riva.errors import refuse
from orchestrator.gateway.riva.request import check_known, parse
from orchestrator.gateway.riva.results import Results
from orchestrator.gateway.riva.streaming import Conversation
from orchestrator.gateway.service import Job, SpeechService
from orchestrator.settings import AudioSettings, GatewaySettings


class RivaService(RivaSpeechRecognitionServicer):  # type: ignore[misc]
    """Answers over a `SpeechService`."""

    def __init__(
        self,
        service: SpeechService,
        settings: GatewaySettings,
        requests: Admission,
        streams: Admission,
        metrics: GatewayMetrics,
        calls: Calls,
        keys: ApiKeys,
    ) -> None:
        """Take the gateway's parts; ``requests`` bounds Recognize, ``streams`` StreamingRecognize."""
        self._service = service
        self._settings = settings
        self._requests = requests
        self._streams = streams
        self._metrics = metrics
        self._calls = calls
        self._keys = keys

    async def Recognize(self, request: RecognizeRequest, context: Any) -> RecognizeResponse:  # noqa: N802
        """A whole recording."""
        with self._calls.noted("Recognize") as note:
            return await self._calls.answered(note, context, self._recognize(request, context, note))

    async def StreamingRecognize(self, _: Any, context: Any) -> None:  # noqa: N802
        """Audio as it is spoken."""
        with self._calls.noted("StreamingRecognize") as note:
            await self._calls.answered(note, context, self._stream(context, note))

    async def GetRivaSpeechRecognitionConfig(  # noqa: N802
        self, request: RivaSpeechRecognitionConfigRequest, context: Any
    ) -> RivaSpeechRecognitionConfigResponse:
        """The models."""
        with self._calls.noted("GetRivaSpeechRecognitionConfig") as note:
            return await self._calls.answered(note, context, self._configs(request))

    async def _recognize(self, request: RecognizeRequest, context: Any, note: Note) -> RecognizeResponse:
        note.request_id, note.bytes_in = request.id.value, len(request.audio)
        with self._caller(context).request(), self._requests.admit():
            check_known(request)
            ask = parse(request.config)
            if not request.audio:
                raise refuse("audio", "it is empty.")
            async with self._requests.until_expired():
                limits = AudioSettings(
                    max_duration_s=self._settings.max_duration_s, max_bytes=self._settings.max_message_bytes
                )
                work = partial(decoded, request.audio, ask.audio, limits)
                audio = await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
                note.audio_s = audio.duration_s
                started = monotonic()
                job = Job(
                    model=ask.model,
                    language=ask.language,
                    speakers="none" if ask.max_speakers is None else "required",
                    max_speakers=ask.max_speakers,
                )
                with _deadline(context):
                    transcript = await self._service.transcribe(audio.samples[0], job)
                note.work_s = monotonic() - started
            self._metrics.transcribed(note.audio_s, note.work_s)
            response = RecognizeResponse(results=Results(ask).offline(transcript))
        if request.HasField("id"):
            response.id.CopyFrom(request.id)
        return response

    async def _stream(self, context: Any, note: Note) -> None:
        idle_s = self._settings.stream_idle_timeout_s
        with self._caller(context).stream(), self._streams.admit():
            async with self._streams.until_expired():
                await Conversation(context, self._service, self._metrics, note, idle_s).run()

    def _caller(self, context: Any) -> Caller:
        """Who calls; the interceptor has let them in."""
        return self._keys.caller(shown_key(context.invocation_metadata())) or ANYBODY

    async def _configs(
        self, request: RivaSpeechRecognitionConfigRequest
    ) -> RivaSpeechRecognitionConfigResponse:
        check_known(request)
        return configs(await self._service.models(), request.model_name)


@contextmanager
def _deadline(context: Any) -> Iterator[None]:
    """The caller's deadline: what is asked of the upstream inside the block carries it on."""
    left_s: float | None = context.time_remaining()
    try:
        with anyio.fail_after(left_s):
            yield
    except TimeoutError as error:
        raise RequestTimeoutError(
            "The caller's deadline is over.", fix="give longer recordings more time."
        ) from error


def decoded(data: bytes, spec: AudioSpec, limits: AudioSettings) -> Audio:
    """A whole recording, mixed to one channel, at 16 kHz.

    Raises:
        AudioError: it is not what the caller or its header says, damaged, empty or too long.
    """
    container = container_of(data, spec.encoding)
    pcm: PcmFormat | None = raw_format(spec) if container is Container.NONE else None
    audio = decode(data, pcm=pcm, limits=limits)
    if pcm is None:
        opus = container is Container.OGG
        check_header(spec, audio.source_rate_hz, audio.source_channels, opus=opus)
    return audio
