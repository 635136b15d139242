"""A live stream fed with a caller's bytes: shared by all protocols that carry live audio."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import anyio.to_thread
import numpy as np

from orchestrator.client.stream.events import StreamEvent
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import Samples
from orchestrator.errors import SpeechError
from orchestrator.gateway.intake import PIECE_BYTES, AudioSpec, Intake
from orchestrator.gateway.service import Live

_AT_ONCE: Final = 30 * SAMPLE_RATE_HZ
"""Samples that are handed on at once: a large message is not decoded whole before its first word."""


class Listener:
    """Decodes bytes in any cut and hands the samples to a live stream."""

    def __init__(self, live: Live, spec: AudioSpec) -> None:
        """Take a stream that whoever calls this closes, and what the caller said of its audio."""
        self._live = live
        self._intake = Intake(spec)
        self._samples = 0

    @property
    def received_s(self) -> float:
        """Audio taken in so far, in seconds."""
        return self._samples / SAMPLE_RATE_HZ

    @property
    def language(self) -> str | None:
        """See `Live.language`."""
        return self._live.language

    async def hear(self, data: bytes, *, end_utterance: bool = False) -> Sequence[StreamEvent]:
        """What ``data`` brings, once it has been recognised; ``end_utterance`` as of `Live.hear`.

        Raises:
            AudioError: the audio is damaged, or not what was said of it.
            SpeechError: recognition failed; the subclass says why.
        """
        events: list[StreamEvent] = []
        waiting: list[Samples] = []
        for begin in range(0, len(data), PIECE_BYTES):
            samples = await self._decoded(data[begin : begin + PIECE_BYTES], large=len(data) > PIECE_BYTES)
            waiting.append(samples)
            if sum(part.size for part in waiting) >= _AT_ONCE:
                events += await self._live.hear(self._taken(waiting))
                waiting = []
        events += await self._live.hear(self._taken(waiting), end_utterance=end_utterance)
        return events

    async def finish(self) -> tuple[Sequence[StreamEvent], SpeechError | None]:
        """The last events, and what is wrong with the end of the audio, if anything is."""
        failure: SpeechError | None = None
        rest = np.zeros(0, np.float32)
        try:
            rest = self._intake.end()
        except SpeechError as error:
            failure = error
        return await self._live.finish(self._taken([rest])), failure

    def go_on_with(self, live: Live) -> None:
        """Hand what follows to another stream; the audio itself goes on where it was."""
        self._live = live

    async def _decoded(self, piece: bytes, *, large: bool) -> Samples:
        if not large:
            return self._intake.feed(piece)
        return await anyio.to_thread.run_sync(partial(self._intake.feed, piece))

    def _taken(self, parts: Sequence[Samples]) -> Samples:
        samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        self._samples += samples.size
        return samples
