"""Who is who in a live stream: windows in, the same speaker numbers over the whole stream out. Numpy only.

A diarizer hears a live stream in windows and numbers the voices of each by itself. `OnlineSpeakers` gives
them numbers that hold for the stream, by these rules:

1. Voices of one window are different people. They are matched with the known speakers one to one, so that
   the sum of the scores is highest (`orchestrator.diarization.matching`).
2. The score of a voice and a speaker is the cosine of the voice's embedding and the speaker's centroid, over
   `OnlineOptions.threshold`; plus up to `LINK` where windows overlap and the voice's turns there are already
   the speaker's.
3. A voice that matches nobody is a new speaker, if it has spoken for `OnlineOptions.min_new_s` or nobody is
   known yet. A shorter voice has a weak embedding: it may match from `WEAK_MARGIN` lower, and else remains
   `NO_SPEAKER` until somebody is known whom it matches.
4. A centroid is the mean of the embeddings, each weighted by the speech that its window added; weak ones
   count `WEAK_WEIGHT` of that.
5. With each window the windows inside the horizon are matched anew, oldest first and each against what all
   others say, and two speakers whose centroids are `OnlineOptions.merge_threshold` alike become the one who
   was known first, unless both were heard in one window. So first impressions are corrected.
6. Labels of windows that begin before the horizon are frozen. Numbers are given in order of appearance and
   never again to somebody else.

The same windows give the same answer, however the diarizer numbered their voices. Cost of a window:
the windows inside the horizon x speakers, whatever the length of the stream.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from orchestrator.diarization.base import Diarization, SpeakerTurn
from orchestrator.diarization.labels import NO_SPEAKER
from orchestrator.diarization.matching import MAX_ROWS, best_matching
from orchestrator.diarization.voices import Spans, Voice, length_ms, shared_ms, voices_of
from orchestrator.errors import InferenceError

LINK: Final = 0.25
"""What it adds to a cosine when two windows agree on a second or more of speech."""
LINK_FULL_MS: Final = 1000
WEAK_MARGIN: Final = 0.15
"""How much lower the cosine of a short voice with its own speaker tends to be."""
WEAK_WEIGHT: Final = 0.1
NOT_EMBEDDED: Final = -0.1
"""The score of a voice without an embedding, before links: not enough alone."""
STAY: Final = 0.03
"""What a label must be beaten by to be corrected: no flicker between equals."""
PASSES: Final = 3
"""Most rounds of correction with one window; nearly always the first changes nothing."""
MS_PER_S: Final = 1000


class OnlineOptions(BaseModel):
    """The bounds of the rules."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float = Field(default=0.45, ge=-1, le=1)
    """Cosine of a voice and a speaker's centroid from which on they are the same."""
    merge_threshold: float = Field(default=0.70, ge=-1, le=1)
    """Cosine of two centroids from which on they are the same speaker."""
    min_new_s: float = Field(default=1.0, ge=0)
    """Speech in its window, in seconds, that makes a new speaker of a voice that matches nobody."""
    max_speakers: int = Field(default=16, ge=1)
    """When as many are known, a voice takes the nearest of them."""
    horizon_s: float = Field(default=30.0, ge=0)
    """How far back, in seconds of audio, labels may still be corrected."""


@dataclass(frozen=True, slots=True)
class OnlineUpdate:
    """What a window changed.

    Attributes:
        frozen_ms: labels before this never change again.
        changed: the parts of the stream before this window whose labels are now others.
    """

    frozen_ms: int
    changed: Spans


@dataclass(slots=True)
class _Window:
    start_ms: int
    end_ms: int
    voices: tuple[Voice, ...]
    labels: list[int]


@dataclass(slots=True)
class _Centroids:
    """Sums of weighted embeddings by speaker."""

    sums: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    def add(self, speaker: int, value: NDArray[np.float64]) -> None:
        self.sums[speaker] = self.sums[speaker] + value if speaker in self.sums else value


class OnlineSpeakers:
    """The speakers of one live stream. Not thread-safe."""

    def __init__(self, options: OnlineOptions | None = None) -> None:
        self._options = options or OnlineOptions()
        self._frozen = _Centroids()
        self._live: list[_Window] = []
        self._past: list[_Window] = []
        """Frozen ones; their voices are only turns by now."""
        self._next = 0
        self._apart: set[tuple[int, int]] = set()
        """Pairs of frozen speakers that were heard in one window."""
        self._merged: dict[int, int] = {}
        self._size: int | None = None
        self._end_ms = 0
        self._frozen_ms = 0

    @property
    def frozen_ms(self) -> int:
        """Labels of the stream before this never change again."""
        return self._frozen_ms

    @property
    def end_ms(self) -> int:
        """The end of the last window."""
        return self._end_ms

    def assign(self, found: Diarization, *, window_ms: int, start_ms: int, end_ms: int) -> OnlineUpdate:
        """Take the next window.

        Args:
            found: its turns and embeddings; times count from the start of the window.
            window_ms: where the window starts in the stream.
            start_ms: where its new part starts: not before the end of the last window.
            end_ms: where it ends.

        Raises:
            InferenceError: the embeddings have another size than before: the model was replaced.
            ValueError: the times go back (a fault of the caller's code).
        """
        if not max(window_ms, self._end_ms) <= start_ms <= end_ms:
            raise ValueError(f"a window [{window_ms}, {start_ms}, {end_ms}] after one to {self._end_ms}")
        self._check_size(found)
        voices = sorted(voices_of(found, window_ms, start_ms, end_ms), key=_importance)[:MAX_ROWS]
        voices.sort(key=lambda voice: (not voice.turns, voice.turns, voice.context))
        self._end_ms = end_ms
        self._freeze(end_ms - round(self._options.horizon_s * MS_PER_S))
        before = [(window, list(window.labels)) for window in self._live]
        window = _Window(start_ms, end_ms, tuple(voices), [NO_SPEAKER] * len(voices))
        self._live.append(window)
        self._match(window)
        for _ in range(PASSES):
            merged = self._merge()
            moved = [self._match(item) for item in self._live]
            if not merged and not any(moved):
                break
        changed = ((item.start_ms, item.end_ms) for item, labels in before if item.labels != labels)
        return OnlineUpdate(self._frozen_ms, tuple(changed))

    def turns(self, start_ms: int = 0, end_ms: int | None = None) -> tuple[SpeakerTurn, ...]:
        """The turns that touch a part of the stream, by start; `NO_SPEAKER` where nobody can be named."""
        return self._spoken(lambda voice: voice.turns, start_ms, end_ms)

    def exclusive(self, start_ms: int = 0, end_ms: int | None = None) -> tuple[SpeakerTurn, ...]:
        """The same with at most one speaker at a time, for labelling words."""
        return self._spoken(lambda voice: voice.exclusive, start_ms, end_ms)

    def _spoken(
        self, spans: Callable[[Voice], Spans], start_ms: int, end_ms: int | None
    ) -> tuple[SpeakerTurn, ...]:
        stop_ms = self._end_ms if end_ms is None else end_ms
        turns = sorted(
            (start, end, label)
            for windows in (self._past, self._live)
            for window in _touching(windows, start_ms, stop_ms)
            for voice, label in zip(window.voices, window.labels, strict=True)
            for start, end in spans(voice)
        )
        return tuple(SpeakerTurn(*turn) for turn in _joined(turns))

    def _check_size(self, found: Diarization) -> None:
        if found.num_speakers == 0:
            return
        size = int(found.embeddings.shape[1])
        if self._size not in (None, size):
            raise InferenceError(
                f"the speaker embeddings have {size} values; this stream began with {self._size}",
                model="diarizer",
                fix="start the stream again: the diarizer was replaced meanwhile",
            )
        self._size = size

    def _freeze(self, until_ms: int) -> None:
        self._frozen_ms = max(self._frozen_ms, until_ms)
        while self._live and self._live[0].start_ms < self._frozen_ms:
            window = self._live.pop(0)
            for speaker, value in self._evidence(window):
                self._frozen.add(speaker, value)
            self._apart |= _pairs(window)
            window.voices = tuple(replace(voice, unit=None, context=()) for voice in window.voices)
            self._past.append(window)

    def _evidence(self, window: _Window) -> Iterable[tuple[int, NDArray[np.float64]]]:
        for voice, label in zip(window.voices, window.labels, strict=True):
            if label != NO_SPEAKER and voice.unit is not None and voice.new_ms:
                weight = voice.new_ms * (1.0 if self._strong(voice) else WEAK_WEIGHT)
                yield label, voice.unit * weight

    def _strong(self, voice: Voice) -> bool:
        return voice.unit is not None and voice.speech_ms >= self._options.min_new_s * MS_PER_S

    def _centroids(self, without: _Window | None = None) -> tuple[list[int], NDArray[np.float64]]:
        """Speakers, rising, and their centroids ``[K, D]`` of length 1."""
        centroids = _Centroids(dict(self._frozen.sums))
        for window in self._live:
            if window is not without:
                for speaker, value in self._evidence(window):
                    centroids.add(speaker, value)
        speakers = sorted(centroids.sums)
        rows = np.array([centroids.sums[speaker] for speaker in speakers])
        rows = rows.reshape(len(speakers), self._size or 0)
        return speakers, rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    def _match(self, window: _Window) -> bool:
        """Label the voices of a window by what all others say; whether that changed a label."""
        speakers, centroids = self._centroids(without=window)
        scores = np.array([self._scores(voice, speakers, centroids) for voice in window.voices])
        scores = scores.reshape(len(window.voices), len(speakers))
        for row, label in enumerate(window.labels):
            if label in speakers:
                scores[row, speakers.index(label)] += STAY
        full = len(speakers) >= self._options.max_speakers
        if full:  # nobody may be new: the nearest will do
            scores += 2.0
        columns = best_matching(scores)
        labels = [speakers[column] if column >= 0 else NO_SPEAKER for column in columns]
        known = {*speakers, *labels, *window.labels} - {NO_SPEAKER}
        for row, voice in enumerate(window.voices):
            if labels[row] == NO_SPEAKER and voice.turns:
                labels[row] = self._unmatched(voice, window.labels[row], labels, known)
                known = (known | {labels[row]}) - {NO_SPEAKER}
        changed = labels != window.labels
        window.labels = labels
        return changed

    def _unmatched(self, voice: Voice, old: int, taken: list[int], known: set[int]) -> int:
        """The label of a voice that no known speaker matches."""
        if old != NO_SPEAKER and old not in taken:
            return old  # others may be better known by now, but nobody else it could be
        if len(known) >= self._options.max_speakers or (known and not self._strong(voice)):
            return NO_SPEAKER
        self._next += 1
        return self._next - 1

    def _scores(
        self, voice: Voice, speakers: Sequence[int], centroids: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        if voice.unit is None:
            scores = np.full(len(speakers), NOT_EMBEDDED)
        else:
            margin = 0.0 if self._strong(voice) else WEAK_MARGIN
            scores = centroids @ voice.unit - self._options.threshold + margin
        if voice.context:
            start_ms = voice.context[0][0]
            total = max(length_ms(voice.context), LINK_FULL_MS)
            for turn in self.turns(start_ms, voice.context[-1][1]):
                if turn.speaker in speakers:
                    shared = shared_ms(voice.context, [(turn.start_ms, turn.end_ms)])
                    scores[speakers.index(turn.speaker)] += LINK * shared / total
        return scores

    def _merge(self) -> bool:
        """Join the two most alike speakers, if they may be the same; whether any were joined."""
        speakers, centroids = self._centroids()
        alike = centroids @ centroids.T
        apart = self._apart.union(*(_pairs(window) for window in self._live))
        pairs = [
            (-float(alike[i, j]), speakers[i], speakers[j])
            for i, j in combinations(range(len(speakers)), 2)
            if alike[i, j] >= self._options.merge_threshold and (speakers[i], speakers[j]) not in apart
        ]
        if not pairs:
            return False
        _, first, second = min(pairs)
        for window in self._live:
            window.labels = [first if label == second else label for label in window.labels]
        if second in self._frozen.sums:
            self._frozen.add(first, self._frozen.sums.pop(second))
        self._apart = {_ordered(*(first if x == second else x for x in pair)) for pair in self._apart}
        return True


def _touching(windows: list[_Window], start_ms: int, stop_ms: int) -> Iterator[_Window]:
    """Windows, which follow one another, that touch a part of the stream."""
    for at in range(bisect_left(windows, start_ms, key=lambda window: window.end_ms), len(windows)):
        if windows[at].start_ms > stop_ms:
            return
        yield windows[at]


def _importance(voice: Voice) -> tuple[int, int]:
    return (-voice.new_ms, -voice.speech_ms)


def _ordered(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)


def _pairs(window: _Window) -> set[tuple[int, int]]:
    """The pairs of speakers that a window tells apart, lower number first."""
    known = sorted({label for label in window.labels if label != NO_SPEAKER})
    return set(combinations(known, 2))


def _joined(turns: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Turns that a window's edge cut in two, whole again; by start."""
    joined: list[tuple[int, int, int]] = []
    last: dict[int, int] = {}
    for start, end, label in turns:
        at = last.get(label)
        if at is not None and joined[at][1] == start:
            joined[at] = (joined[at][0], end, label)
        else:
            last[label] = len(joined)
            joined.append((start, end, label))
    return joined
