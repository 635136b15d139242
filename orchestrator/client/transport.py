"""What the library asks of a connection: one Triton (`TritonTransport`) or several (`UpstreamPool`), an
engine outside Triton (`orchestrator.client.engines`), or all of them together (`Switchboard`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from orchestrator.client.catalog import ModelCard
from orchestrator.client.stream.codec import WireChunk
from orchestrator.client.triton import ServerStatus
from orchestrator.diarization.base import Diarization, DiarizationOptions
from orchestrator.engines.alignment.base import Alignment, AlignmentOptions
from orchestrator.engines.base import LanguageGuess, Recognition, RecognitionOptions, Samples
from orchestrator.engines.streaming import StreamUpdate


class SpeechTransport(Protocol):
    """Requests for models, and questions about servers; `TritonTransport` says what each does."""

    host: str
    """``host:port``, or several of them with commas."""

    async def status(self) -> ServerStatus:
        """See `TritonTransport.status`."""

    async def cards(self) -> tuple[ModelCard, ...]:
        """See `TritonTransport.cards`."""

    async def recognize(
        self,
        model: str,
        samples: Samples,
        options: RecognitionOptions,
        *,
        version: str = "",
        pcm16: bool = False,
    ) -> Recognition:
        """See `TritonTransport.recognize`."""

    async def detect_language(self, model: str, samples: Samples) -> LanguageGuess:
        """See `TritonTransport.detect_language`."""

    async def diarize(
        self, model: str, samples: Samples, options: DiarizationOptions, *, version: str = ""
    ) -> Diarization:
        """See `TritonTransport.diarize`."""

    async def align(
        self,
        model: str,
        samples: Samples,
        words: Sequence[str],
        options: AlignmentOptions,
        *,
        pcm16: bool = False,
    ) -> Alignment:
        """See `TritonTransport.align`."""

    async def stream_chunk(
        self, model: str, chunk: WireChunk, *, version: str = "", timeout_s: float
    ) -> StreamUpdate:
        """See `TritonTransport.stream_chunk`."""

    async def close(self) -> None:
        """See `TritonTransport.close`."""
