"""Tells the caller of a stream what was heard: finals in order, with their speakers where they are named."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from anyio.streams.memory import MemoryObjectSendStream

from orchestrator.client.stream.codec import Pcm16
from orchestrator.client.stream.events import Final as FinalEvent
from orchestrator.client.stream.events import Partial, SpeakerChange, StreamEvent
from orchestrator.client.stream.labeler import Correction, SpeakerLabeler
from orchestrator.client.stream.replay import Heard
from orchestrator.client.stream.results import Captions, Finals
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.errors import ServiceError

logger = logging.getLogger(__name__)

_MS_PER_S: Final = 1000
_CORRECTIONS: Final = "corrections"
"""In the queue of finals: something told before may be known better."""


class Announcer:
    """One stream's events on their way out.

    Naming speakers takes longer than a chunk, so that finals wait for it in a queue of their own while
    partials go on.

    Attributes:
        finals: everything final so far.
    """

    def __init__(
        self,
        out: MemoryObjectSendStream[StreamEvent],
        labeler: SpeakerLabeler | None,
        *,
        partials: bool,
        audio: Callable[[int, int], Pcm16],
    ) -> None:
        """Begin; inside a running event loop.

        Args:
            out: where events go.
            labeler: names the speakers.
            partials: whether to tell partials.
            audio: gives audio that is not final between two times, in ms of the stream.
        """
        self.finals = Finals()
        self._out = out
        self._labeler = labeler
        self._partials = partials
        self._audio = audio
        self._captions = Captions()
        self._waiting: asyncio.Queue[FinalEvent | str | None] = asyncio.Queue()
        self._labelling = None if labeler is None else asyncio.create_task(self._label(labeler))

    async def tell(self, event: StreamEvent) -> None:
        """Say one thing; waits while too much is unread."""
        self.finals.add(event)
        await self._out.send(event)

    def took(self, begin: int, samples: Pcm16) -> None:
        """Take note that the server has audio; ``begin`` counts samples of the stream."""
        if self._labeler is not None:
            self._labeler.hear(begin * _MS_PER_S // SAMPLE_RATE_HZ, samples)

    async def heard(self, segments: Sequence[Heard]) -> None:
        """Say what is new in the segments of an answer."""
        for heard in segments:
            event = self._captions.event(heard)
            if isinstance(event, Partial):
                if self._labeler is not None:
                    self._labeler.ongoing(event.segment, self._audio)
                if self._partials:
                    await self.tell(event)
            elif isinstance(event, FinalEvent):
                if self._labeler is None or self._labelling is None:
                    await self.tell(event)
                elif self._labelling.done():
                    self._labelling.result()  # raises why
                else:
                    if event.segment.words:
                        self._labeler.submit(event.utterance, event.segment, heard.samples)
                    self._waiting.put_nowait(event)

    async def finish(self) -> None:
        """Wait until all finals are told, and then the last corrections of speakers."""
        if self._labelling is not None:
            self._waiting.put_nowait(None)
            await self._labelling

    async def close(self) -> None:
        """Stop, whatever is still waiting."""
        if self._labelling is not None:
            await end(self._labelling)

    async def _label(self, labeler: SpeakerLabeler) -> None:
        labeler.watch(lambda: self._waiting.put_nowait(_CORRECTIONS))
        try:
            while (work := await self._waiting.get()) is not None:
                if isinstance(work, FinalEvent):
                    await self.tell(await self._labelled(labeler, work))
                await self._correct(labeler.corrections())
            try:
                last = await labeler.finish()
            except ServiceError as error:
                logger.warning("the speakers are not corrected at the end: %s", error)
            else:
                await self._correct(last)
        finally:
            await labeler.aclose()

    async def _labelled(self, labeler: SpeakerLabeler, final: FinalEvent) -> FinalEvent:
        if not final.segment.words:
            return final
        try:
            return replace(final, segment=await labeler.final(final.utterance))
        except ServiceError as error:  # the words are worth more than the names
            logger.warning("utterance %d has no speakers: %s", final.utterance, error)
            return final

    async def _correct(self, corrections: Sequence[Correction]) -> None:
        for utterance, segment in corrections:
            await self.tell(SpeakerChange(utterance, segment))


async def end(task: asyncio.Task[None]) -> None:
    """Cancel ``task`` and wait until it is over; what it raised is of no interest any more."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})  # awaiting it would cancel it once more if we are cancelled
    if not task.cancelled():
        task.exception()
