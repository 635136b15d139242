"""The end of a live stream: its audio as one recording, whose speakers keep their names from the stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from orchestrator.client.stream.codec import Pcm16
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.diarization.base import Diarization, SpeakerTurn
from orchestrator.diarization.labels import NO_SPEAKER
from orchestrator.engines.base import Samples

_MS_PER_S: Final = 1000
_SAMPLES_PER_MS: Final = SAMPLE_RATE_HZ // _MS_PER_S
FULL_SCALE: Final = np.float32(32_768)


class Kept:
    """A stream's 16-bit audio, up to a longest stream."""

    def __init__(self, max_s: float) -> None:
        self._limit_ms = max_s * _MS_PER_S
        self._pieces: list[tuple[int, Pcm16]] = []
        self._end_ms = 0

    def add(self, start_ms: int, audio: Pcm16) -> None:
        """Take in what is new of a piece; once the stream is too long, what was kept is dropped."""
        known = max(0, self._end_ms - start_ms)
        start_ms, audio = start_ms + known, audio[known * _SAMPLES_PER_MS :]
        self._end_ms = max(self._end_ms, start_ms + -(-len(audio) // _SAMPLES_PER_MS))
        if self._end_ms > self._limit_ms:
            self._pieces.clear()
        else:
            self._pieces.append((start_ms, audio))

    def audio(self) -> Samples | None:
        """The whole, with silence where nothing was taken in; None where it was too long, or empty."""
        if self._end_ms > self._limit_ms or not self._pieces:
            return None
        whole = np.zeros(self._end_ms * _SAMPLES_PER_MS, dtype=np.float32)
        for start_ms, piece in self._pieces:
            begin = start_ms * _SAMPLES_PER_MS
            whole[begin : begin + len(piece)] = piece / FULL_SCALE
        return whole


def relabelled(found: Diarization, known: Sequence[SpeakerTurn]) -> Diarization:
    """``found`` with the numbers that its speakers have in ``known``.

    Pairs are made one to one, those that share most speech first; who shares none gets a new number.
    """
    shared: dict[tuple[int, int], int] = {}
    for turn in found.turns:
        for other in known:
            both = min(turn.end_ms, other.end_ms) - max(turn.start_ms, other.start_ms)
            if both > 0 and other.speaker != NO_SPEAKER:
                pair = (turn.speaker, other.speaker)
                shared[pair] = shared.get(pair, 0) + both
    number: dict[int, int] = {}
    for new, old in sorted(shared, key=lambda pair: (-shared[pair], pair)):
        if new not in number and old not in number.values():
            number[new] = old
    fresh = 1 + max((turn.speaker for turn in known), default=NO_SPEAKER)
    for turn in found.turns:
        if turn.speaker not in number:
            number[turn.speaker] = fresh
            fresh += 1
    return replace(
        found,
        turns=_renumbered(found.turns, number),
        exclusive=_renumbered(found.exclusive, number),
    )


def _renumbered(turns: Sequence[SpeakerTurn], number: dict[int, int]) -> tuple[SpeakerTurn, ...]:
    return tuple(replace(turn, speaker=number[turn.speaker]) for turn in turns if turn.speaker in number)
