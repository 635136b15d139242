"""Names the speakers of a live stream: each utterance to the diarizer, its voices to `OnlineSpeakers`.

The diarizer is asked in the background. A final waits for its answer for `SpeakerSettings.wait_s` at most;
what comes later comes as a correction. Words get their speakers by the rules for recordings
(`orchestrator.diarization.stitch`). While the diarizer is away, words go on without speakers.

A window is as long as the diarizer takes, 10 s: what is new at its end, up to `STEP_MS`, and what was said
before it, so that voices are long enough to embed and windows overlap. An utterance that goes on for long is
asked about while it does. Only utterances are sent; what lies between them is silence in a window.
`orchestrator.bench.online_speakers` measures what that costs and gives.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio
import numpy as np

from orchestrator.client.stream.codec import Pcm16
from orchestrator.client.stream.labeler import Correction
from orchestrator.client.stream.relabel import FULL_SCALE, Kept, relabelled
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.diarization import stitch
from orchestrator.diarization.base import LOCAL_WINDOW_S, Diarization, DiarizationOptions, SpeakerTurn
from orchestrator.diarization.labels import NO_SPEAKER
from orchestrator.diarization.online import OnlineOptions, OnlineSpeakers
from orchestrator.engines.base import Samples
from orchestrator.errors import SpeechError
from orchestrator.transcript.models import Segment, Turn, Word

logger = logging.getLogger(__name__)

Diarize = Callable[[Samples, DiarizationOptions], Awaitable[Diarization]]
"""Asks a diarizer; raises `ServiceError` where it fails."""

STEP_MS: Final = 7500
"""New audio of one window: the rest of its 10 s overlaps with the window before."""
ONGOING_MS: Final = 6500
"""New audio of an utterance that is asked about before it is final: what remains fits into one window."""
UNSETTLED_MS: Final = 500
"""The end of a partial may still move."""
AROUND_MS: Final = 1000
"""How far from a word a turn may be that names it (`LabelRules.max_gap_ms`)."""
AWAY_S: Final = 5.0
"""After a failure of the diarizer the next utterances do not ask for this long."""
BEHIND_MS: Final = 60_000
"""Utterances that wait for a diarizer this far behind the stream remain without speakers."""
MS_PER_S: Final = 1000
_SAMPLES_PER_MS: Final = SAMPLE_RATE_HZ // MS_PER_S
_WINDOW_MS: Final = round(LOCAL_WINDOW_S * MS_PER_S)
_LOCAL: Final = DiarizationOptions(mode="local")


@dataclass(frozen=True, slots=True)
class SpeakerOptions:
    """How a live stream's speakers are found.

    Attributes:
        wait_s: how long a final waits for its speakers, in seconds.
        finish_s: how long the end of the stream waits for speakers that are still missing, in seconds.
        relabel: hear the whole stream again at its end, as a recording, and correct everything.
        relabel_max_s: the longest stream, in seconds, whose audio is kept for that: 115 MB an hour.
        online: bounds of the store, the horizon of corrections among them.
    """

    wait_s: float = 1.5
    finish_s: float = 10.0
    relabel: bool = False
    relabel_max_s: float = 3600.0
    online: OnlineOptions = field(default_factory=OnlineOptions)


@dataclass(slots=True)
class _Stretch:
    """A part of the stream to ask about: an utterance, or the beginning of one."""

    start_ms: int
    end_ms: int
    number: int | None
    """The utterance's, once it is final."""
    done: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Utterance:
    segment: Segment
    """With the speakers that its reader knows."""
    stretch: _Stretch
    submitted_s: float
    """On the event loop's clock."""
    told: bool = False


class LiveSpeakers:
    """The speakers of one stream: a `SpeakerLabeler`. Use it on one event loop, and close it."""

    def __init__(self, diarize: Diarize, options: SpeakerOptions | None = None) -> None:
        """Begin.

        Args:
            diarize: asks the diarizer, such as ``partial(transport.diarize, "diarizer")``.
            options: waits, bounds, and whether to relabel at the end.
        """
        self.store = OnlineSpeakers((options or SpeakerOptions()).online)
        self._diarize = diarize
        self._options = options or SpeakerOptions()
        self._recent: deque[tuple[int, Pcm16]] = deque()  # start in ms
        self._kept = Kept(self._options.relabel_max_s) if self._options.relabel else None
        self._utterances: dict[int, _Utterance] = {}
        self._waiting: deque[_Stretch] = deque()
        self._asking: asyncio.Task[None] | None = None
        self._news: Callable[[], None] | None = None
        self._changed: set[int] = set()
        self._whole: Diarization | None = None
        self._asked_ms = 0
        """Where what was asked about ends."""
        self._away_until_s = -1.0
        self._warned = False

    def watch(self, news: Callable[[], None]) -> None:
        """Have ``news`` called whenever `corrections` may have something, outside of `final`."""
        self._news = news

    def hear(self, start_ms: int, audio: Pcm16) -> None:
        """Keep the audio, where it will be heard again at the end; see `SpeakerLabeler`."""
        if self._kept is not None:
            self._kept.add(start_ms, audio)

    def ongoing(self, segment: Segment, audio: Callable[[int, int], Pcm16]) -> None:
        """Ask about an utterance's beginning, once there is enough of it; see `SpeakerLabeler`."""
        start_ms = max(_ms(segment.start), self._asked_ms)
        end_ms = _ms(segment.end) - UNSETTLED_MS
        if end_ms - start_ms >= ONGOING_MS:
            self._want(_Stretch(start_ms, end_ms, None), audio(start_ms, end_ms))

    def submit(self, utterance: int, segment: Segment, audio: Pcm16) -> None:
        """Ask the diarizer about an utterance, in the background; see `SpeakerLabeler`."""
        stretch = _Stretch(_ms(segment.start), _ms(segment.end), utterance)
        self._utterances[utterance] = _Utterance(segment, stretch, anyio.current_time())
        self._want(stretch, audio)
        self._forget(stretch.end_ms)

    async def final(self, utterance: int) -> Segment:
        """The segment with its speakers, as far as they are known in time; see `SpeakerLabeler`."""
        said = self._utterances[utterance]
        with anyio.CancelScope(deadline=said.submitted_s + self._options.wait_s):
            await said.stretch.done.wait()
        said.told = True
        said.segment = self._labelled(said)
        self._changed.discard(utterance)
        return said.segment

    async def settle(self) -> None:
        """Wait until everything that was asked is answered, or given up."""
        while self._waiting:
            await self._waiting[-1].done.wait()

    def turns(self) -> tuple[SpeakerTurn, ...]:
        """Who spoke when, as far as it is known by now, in ms of the stream; `NO_SPEAKER` for somebody."""
        return self.store.turns() if self._whole is None else self._whole.turns

    def corrections(self) -> Sequence[Correction]:
        """Utterances that were final before and are known better since, in order."""
        found = []
        for number in sorted(self._changed):
            said = self._utterances.get(number)
            if said is None or not said.told:
                continue
            self._changed.discard(number)
            segment = self._labelled(said)
            if segment != said.segment:
                said.segment = segment
                found.append((number, segment))
        return found

    async def finish(self) -> Sequence[Correction]:
        """The last corrections: of speakers that come late, and of the whole where that was asked for.

        Where the diarizer fails on the whole, that is logged and the labels remain as they are.
        """
        with anyio.move_on_after(self._options.finish_s):
            await self.settle()
        await self.aclose()
        late = dict(self.corrections())
        if self._kept is None:
            return tuple(late.items())
        try:
            whole = await self._relabel(self._kept)
        except SpeechError as error:
            # What is known by now must reach the caller all the same.
            logger.warning("the stream's speakers are not heard again at the end: %s", error)
            whole = {}
        return tuple(sorted((late | whole).items()))

    async def aclose(self) -> None:
        """Ask no more. Safe to call again."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.wait({asking})

    def _want(self, stretch: _Stretch, audio: Pcm16) -> None:
        self._recent.append((stretch.start_ms, audio))
        self._asked_ms = max(self._asked_ms, stretch.end_ms)
        if anyio.current_time() < self._away_until_s:
            stretch.done.set()
            return
        self._waiting.append(stretch)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_all())

    async def _ask_all(self) -> None:
        """Ask about everything that waits, oldest first; ends when nothing does."""
        try:
            while self._waiting:
                batch = list(self._next_batch())
                try:
                    await self._ask(batch[0].start_ms, batch[-1].end_ms)
                except SpeechError as error:
                    self._give_up(error)
                    return
                self._warned = False
                for stretch in batch:
                    self._waiting.popleft()
                    if stretch.number is not None:
                        self._changed.add(stretch.number)
                    stretch.done.set()
                if self._news is not None:
                    self._news()
        finally:
            self._asking = None

    def _next_batch(self) -> Iterator[_Stretch]:
        """As many of the waiting stretches as fit into one window, at least one."""
        behind_ms = self._waiting[-1].end_ms - BEHIND_MS
        while self._waiting[0].end_ms < behind_ms:
            self._waiting.popleft().done.set()
        first = self._waiting[0]
        yield first
        for stretch in list(self._waiting)[1:]:
            if stretch.end_ms - first.start_ms > STEP_MS:
                return
            yield stretch

    async def _ask(self, start_ms: int, end_ms: int) -> None:
        start_ms = max(start_ms, self.store.end_ms)
        while start_ms < end_ms:
            until_ms = min(end_ms, start_ms + STEP_MS)
            window_ms = max(0, until_ms - _WINDOW_MS)
            found = await self._diarize(self._audio(window_ms, until_ms), _LOCAL)
            update = self.store.assign(found, window_ms=window_ms, start_ms=start_ms, end_ms=until_ms)
            for number, said in self._utterances.items():
                place = said.stretch
                if place.start_ms >= update.frozen_ms and any(
                    place.start_ms - AROUND_MS <= end and start <= place.end_ms + AROUND_MS
                    for start, end in update.changed
                ):
                    self._changed.add(number)
            start_ms = until_ms

    def _audio(self, start_ms: int, end_ms: int) -> Samples:
        """What was said between two times, silence elsewhere."""
        window = np.zeros((end_ms - start_ms) * _SAMPLES_PER_MS, dtype=np.float32)
        for piece_ms, piece in self._recent:
            offset = (piece_ms - start_ms) * _SAMPLES_PER_MS
            begin, end = max(0, offset), min(len(window), offset + len(piece))
            if begin < end:
                window[begin:end] = piece[begin - offset : end - offset] / FULL_SCALE
        return window

    def _give_up(self, error: SpeechError) -> None:
        self._away_until_s = anyio.current_time() + AWAY_S
        if not self._warned:
            logger.warning("words go on without speakers: %s", error)
        self._warned = True
        while self._waiting:
            self._waiting.popleft().done.set()

    def _forget(self, now_ms: int) -> None:
        """Let go of what no window and no correction needs any more, also while the diarizer is away."""
        next_ms = min((stretch.start_ms for stretch in self._waiting), default=now_ms)
        oldest_ms = next_ms - _WINDOW_MS
        while self._recent and self._recent[0][0] + len(self._recent[0][1]) // _SAMPLES_PER_MS < oldest_ms:
            self._recent.popleft()
        if self._kept is None:
            horizon_ms = _ms(self._options.online.horizon_s)
            for number, said in list(self._utterances.items()):
                over = said.stretch.end_ms < next_ms - horizon_ms - AROUND_MS
                if over and said.told and number not in self._changed:
                    del self._utterances[number]

    def _labelled(self, said: _Utterance) -> Segment:
        around = (said.stretch.start_ms - AROUND_MS, said.stretch.end_ms + AROUND_MS)
        return label_segment(said.segment, self.store.exclusive(*around), self.store.turns(*around))

    async def _relabel(self, kept: Kept) -> dict[int, Segment]:
        audio = kept.audio()
        if audio is None:
            logger.warning(
                "the stream is longer than %.0f s, so its speakers are not heard again at the end",
                self._options.relabel_max_s,
            )
            return {}
        found = relabelled(await self._diarize(audio, DiarizationOptions()), self.store.turns())
        self._whole = found
        fresh = {
            number: label_segment(said.segment, found.exclusive, found.turns)
            for number, said in self._utterances.items()
        }
        return {
            number: segment
            for number, segment in fresh.items()
            if segment != self._utterances[number].segment
        }


def label_segment(
    segment: Segment, exclusive: Sequence[SpeakerTurn], turns: Sequence[SpeakerTurn]
) -> Segment:
    """The segment with speakers on its words, by the rules for recordings, and on itself.

    The segment's own speaker is the one whose words last longest; the first of equals.
    """
    words = stitch.label_words(segment.words, _named(exclusive), _named(turns))
    words = tuple(_without_nobody(word) for word in words)
    spoken: dict[str, float] = {}
    for word in words:
        if word.speaker is not None:
            spoken[word.speaker] = spoken.get(word.speaker, 0.0) + max(word.end - word.start, 0.001)
    speaker = max(spoken, key=spoken.__getitem__) if spoken else None
    return segment.model_copy(update={"words": words, "speaker": speaker})


_NOBODY: Final = stitch.speaker_name(NO_SPEAKER)
"""Speech of somebody unknown: its words must not fall to the next turn."""


def _named(turns: Sequence[SpeakerTurn]) -> tuple[Turn, ...]:
    return tuple(
        Turn(
            start=turn.start_ms / MS_PER_S,
            end=turn.end_ms / MS_PER_S,
            speaker=stitch.speaker_name(turn.speaker),
        )
        for turn in turns
    )


def _without_nobody(word: Word) -> Word:
    if word.speaker != _NOBODY:
        return word
    return word.model_copy(update={"speaker": None, "speaker_confidence": None})


def _ms(seconds: float) -> int:
    return round(seconds * MS_PER_S)
