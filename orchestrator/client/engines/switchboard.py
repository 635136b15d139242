"""Triton and the engines outside it as one transport: each request goes to whoever has the model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import anyio

from orchestrator.client.catalog import ModelCard
from orchestrator.client.stream.codec import WireChunk
from orchestrator.client.transport import SpeechTransport
from orchestrator.client.triton import ServerStatus
from orchestrator.diarization.base import Diarization, DiarizationOptions
from orchestrator.engines.alignment.base import Alignment, AlignmentOptions
from orchestrator.engines.base import LanguageGuess, Recognition, RecognitionOptions, Samples
from orchestrator.engines.streaming import StreamUpdate
from orchestrator.errors import ModelNotReadyError, ServiceError, SpeechError

logger = logging.getLogger(__name__)

AWAY: Final = "AWAY"
"""State of a model whose server did not answer when it was asked."""


class Switchboard:
    """`SpeechTransport` over a Triton and others. A model ``riva/NAME`` is at the transport ``riva``."""

    def __init__(self, triton: SpeechTransport, others: Mapping[str, SpeechTransport]) -> None:
        """Join ``triton`` with ``others``, which are named as their models begin."""
        self._triton = triton
        self._others = dict(others)
        self.host = triton.host
        self._cards: dict[str, tuple[ModelCard, ...]] = {}
        self._away: dict[str, str] = {}

    @property
    def away(self) -> Mapping[str, str]:
        """The engines outside Triton that did not answer when they were asked last, and why."""
        return self._away

    async def status(self) -> ServerStatus:
        """How Triton is; see `TritonTransport.status`."""
        return await self._triton.status()

    async def cards(self) -> tuple[ModelCard, ...]:
        """The cards of all; those of a server that does not answer are as they were, and not ready.

        Raises:
            ServerUnavailableError: Triton does not answer, and no other has a model that is ready.
        """
        errors: dict[str, SpeechError] = {}

        async def ask(name: str, transport: SpeechTransport) -> None:
            try:
                self._cards[name] = await transport.cards()
            except (ServiceError, ModelNotReadyError) as error:
                logger.info("%s: no answer: %s", name, error.message)
                errors[name] = error
                known = self._cards.get(name, ())
                self._cards[name] = tuple(replace(one, ready=False, state=AWAY) for one in known)

        async with anyio.create_task_group() as group:
            for name, transport in self._all().items():
                group.start_soon(partial(ask, name, transport))
        self._away = {name: error.message for name, error in errors.items() if name}
        cards = tuple(one for name in self._all() for one in self._cards.get(name, ()))
        if "" in errors and not any(one.ready for one in cards):
            raise errors[""]
        return cards

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
        return await self._at(model).recognize(model, samples, options, version=version, pcm16=pcm16)

    async def detect_language(self, model: str, samples: Samples) -> LanguageGuess:
        """See `TritonTransport.detect_language`."""
        return await self._at(model).detect_language(model, samples)

    async def diarize(
        self, model: str, samples: Samples, options: DiarizationOptions, *, version: str = ""
    ) -> Diarization:
        """See `TritonTransport.diarize`."""
        return await self._at(model).diarize(model, samples, options, version=version)

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
        return await self._at(model).align(model, samples, words, options, pcm16=pcm16)

    async def stream_chunk(
        self, model: str, chunk: WireChunk, *, version: str = "", timeout_s: float
    ) -> StreamUpdate:
        """See `TritonTransport.stream_chunk`."""
        return await self._at(model).stream_chunk(model, chunk, version=version, timeout_s=timeout_s)

    async def close(self) -> None:
        """Close all connections. Safe to call again."""
        for transport in self._all().values():
            await transport.close()

    def _all(self) -> dict[str, SpeechTransport]:
        return {"": self._triton, **self._others}

    def _at(self, model: str) -> SpeechTransport:
        return self._others.get(model.partition("/")[0], self._triton)
