"""A streaming recogniser without a network or a model: audio whose words can be read off its samples."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from orchestrator.client import StreamEvent
from orchestrator.engines.base import RecognizedWord
from orchestrator.engines.streaming import StreamSegment, StreamUpdate

RATE = 16_000
PER_MS = 16
STOP_MS = 300
"""Silence that ends an utterance."""


def say(words: list[tuple[int, int, int]]) -> np.ndarray:
    """Audio of ``(level, length_ms, silence_after_ms)``: word number ``level`` is a stretch at that level."""
    parts = [
        part
        for level, length_ms, gap_ms in words
        for part in (np.full(length_ms * PER_MS, level, "<i2"), np.zeros(gap_ms * PER_MS, "<i2"))
    ]
    return np.concatenate(parts) if parts else np.zeros(0, "<i2")


def gather(stream: Iterable[StreamEvent], events: list[StreamEvent]) -> None:
    """Into a list that is there also if the stream fails."""
    for event in stream:
        events.append(event)


class SimulatedStream:
    """One sequence on the server: ends utterances after `STOP_MS`, looks ``lookahead_ms`` ahead."""

    def __init__(self, lookahead_ms: int = 0) -> None:
        self._audio = np.zeros(0, "<i2")
        self._lookahead = lookahead_ms * PER_MS
        self._begin = 0  # sample after the last final
        self._utterance = 0

    def step(self, samples: np.ndarray, *, end: bool, force: bool = False) -> StreamUpdate:
        self._audio = np.concatenate([self._audio, samples])
        whole = end or force
        known = len(self._audio) if whole else max(0, len(self._audio) - self._lookahead)
        segments = []
        while True:
            words, runs = self._words(known)
            stop = next(
                (
                    index
                    for index, (_, last) in enumerate(runs)
                    if (runs[index + 1][0] if index + 1 < len(runs) else known) - last >= STOP_MS * PER_MS
                ),
                None,
            )
            if stop is None:
                break
            segments.append(StreamSegment(self._utterance, tuple(words[: stop + 1]), True, 1.0))
            self._utterance += 1
            self._begin = runs[stop][1] + 100 * PER_MS
        words, runs = self._words(known)
        if words and whole:
            segments.append(StreamSegment(self._utterance, tuple(words), True, 1.0))
            self._utterance += 1
        elif words:
            segments.append(StreamSegment(self._utterance, tuple(words), False, 0.5))
        if whole:
            self._begin = len(self._audio)
        elif not runs:  # only silence: nothing in it is needed again
            self._begin = max(self._begin, known // PER_MS * PER_MS)
        return StreamUpdate(tuple(segments), known // PER_MS, self._begin // PER_MS, "en")

    def _words(self, known: int) -> tuple[list[RecognizedWord], list[tuple[int, int]]]:
        heard = self._audio[self._begin : known]
        edges = (np.flatnonzero(np.diff(heard, prepend=0)) + self._begin).tolist()
        runs = [(a, b) for a, b in itertools.pairwise([*edges, known]) if self._audio[a]]
        words = [RecognizedWord(f"w{self._audio[a]}", a // PER_MS, -(-b // PER_MS), 1.0) for a, b in runs]
        return words, runs
