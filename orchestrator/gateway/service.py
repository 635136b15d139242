"""What all protocols of the gateway ask for, and `TritonService`, which answers through the client library.

Protocols know only `SpeechService`, so tests and other upstreams can stand in for Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

from orchestrator.client import AsyncSpeechClient, ModelCard
from orchestrator.client.routing import AUTO
from orchestrator.client.stream.events import StreamEvent
from orchestrator.contract import Task
from orchestrator.engines.base import Samples
from orchestrator.errors import ModelNotFoundError, ModelNotReadyError
from orchestrator.gateway.live import LiveJob, TritonLive
from orchestrator.settings import Settings
from orchestrator.settings_engines import RivaSettings
from orchestrator.transcript.models import Transcript

Speakers = Literal["none", "if possible", "required"]
"""Whether a transcript names speakers; ``if possible``: where the server has a diarizer."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked of one recording.

    Attributes:
        model: the name of an engine or a model, or ``auto``.
        language: BCP-47 tag; None lets the engine decide.
        speakers: see `Speakers`.
        num_speakers: how many speakers there are, where that is known.
        max_speakers: the most there may be, where that is known.
    """

    model: str = AUTO
    language: str | None = None
    speakers: Speakers = "none"
    num_speakers: int | None = None
    max_speakers: int | None = None


class Live(Protocol):
    """One live stream; its methods are called one after the other."""

    @property
    def language(self) -> str | None:
        """What is spoken, a BCP-47 tag; None until it is known."""

    async def hear(self, samples: Samples, *, end_utterance: bool = False) -> Sequence[StreamEvent]:
        """Take the next audio, and say what is new once it has been recognised.

        Args:
            samples: any number of them, also none; what does not fill a step of the model waits for more.
            end_utterance: make everything up to the end of ``samples`` final.
        """

    async def finish(self, samples: Samples) -> Sequence[StreamEvent]:
        """Take the last audio; the last finals."""

    async def close(self) -> None:
        """End the stream, here and at the upstream; safe to call again."""


class SpeechService(Protocol):
    """Recordings in, transcripts out; methods raise the project's errors only."""

    async def models(self) -> tuple[ModelCard, ...]:
        """Every model of the upstream, ready or not."""

    async def check_ready(self) -> None:
        """Return if a recording sent now can be recognised.

        Raises:
            ServerUnavailableError: the upstream does not answer.
            ModelNotReadyError: it answers, but is not ready or has no recogniser that is.
        """

    async def transcribe(self, recording: Path | Samples, job: Job) -> Transcript:
        """Transcribe one file, or samples. Cancelling this cancels the requests to the upstream."""

    def stream(self, job: LiveJob) -> Live:
        """Begin a live stream; whoever does closes it."""

    async def close(self) -> None:
        """Let go of connections."""


def recognisers(cards: tuple[ModelCard, ...]) -> list[ModelCard]:
    """The cards of recognisers that are ready, the preferred one first."""
    able = [card for card in cards if card.ready and card.task is Task.RECOGNIZE]
    return sorted(able, key=lambda card: (card.rank, card.name))


def engine_riva(settings: Settings) -> RivaSettings:
    """The engine `riva`, unless it is this very gateway, which would ask itself for ever.

    Clients on its machine may share its settings file.
    """
    address = urlsplit(f"//{(settings.riva.url or '').rpartition('://')[2]}")
    try:
        here = address.port is not None and address.port == settings.gateway.grpc_port
    except ValueError:  # no port: whoever connects says so
        here = False
    local = address.hostname in ("localhost", "127.0.0.1", "::1", settings.gateway.host)
    return settings.riva.model_copy(update={"url": None}) if here and local else settings.riva


class TritonService:
    """`SpeechService` over one Triton server, or several that share the work. Use it on one event loop."""

    def __init__(self, settings: Settings, url: str | None = None) -> None:
        """Make a client of ``url``; nothing is connected yet.

        Left out, it is of ``settings.gateway.upstreams``, or of ``settings.client.url`` where those are
        none. Recordings are bounded by the stricter of ``settings.audio`` and ``settings.gateway``.

        Raises:
            ConfigurationError: what should be an address is none.
        """
        limits = settings.audio.model_copy(
            update={
                "max_duration_s": min(settings.audio.max_duration_s, settings.gateway.max_duration_s),
                "max_bytes": min(settings.audio.max_bytes, settings.gateway.max_upload_bytes),
            }
        )
        self._client = AsyncSpeechClient(
            url or settings.gateway.upstreams or None,
            settings=settings.model_copy(update={"audio": limits, "riva": engine_riva(settings)}),
        )

    @property
    def host(self) -> str:
        """The upstream, ``host:port``; several with commas."""
        return self._client.host

    @property
    def outstanding(self) -> dict[str, int]:
        """Requests and streams in work at each of several upstreams that is there."""
        return self._client.outstanding

    async def models(self) -> tuple[ModelCard, ...]:
        """See `SpeechService.models`."""
        return await self._client.models()

    async def check_ready(self) -> None:
        """See `SpeechService.check_ready`."""
        status = await self._client.server_status()
        if not status.ready or not recognisers(await self._client.models()):
            missing = "has no recogniser that is ready" if status.ready else "is not ready"
            raise ModelNotReadyError(
                f"The server at {self.host} {missing}.",
                fix="wait until its models are loaded, or see `spark-speech status`.",
                host=self.host,
            )

    async def transcribe(self, recording: Path | Samples, job: Job) -> Transcript:
        """See `SpeechService.transcribe`."""
        diarize = job.speakers != "none"
        if diarize and not await self._has_diarizer():
            if job.speakers == "required":
                raise ModelNotFoundError(
                    f"The server at {self.host} has no diarizer that is ready, so speakers cannot be named.",
                    fix="ask for a format without speakers, or serve a release with the diarizer.",
                    host=self.host,
                )
            diarize = False
        return await self._client.transcribe(
            recording,
            engine=job.model,
            language=job.language,
            diarize=diarize,
            num_speakers=job.num_speakers if diarize else None,
            max_speakers=job.max_speakers if diarize else None,
        )

    def stream(self, job: LiveJob) -> Live:
        """See `SpeechService.stream`."""
        return TritonLive(self._client, job)

    async def _has_diarizer(self) -> bool:
        return any(card.ready and card.task is Task.DIARIZE for card in await self.models())

    async def close(self) -> None:
        """See `SpeechService.close`."""
        await self._client.close()
