"""From recognitions and a diarization to a `Transcript`: pure."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.client.seams import WindowWords, merge
from orchestrator.client.windows import Window
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.diarization import stitch
from orchestrator.diarization.base import Diarization
from orchestrator.engines.base import Recognition, RecognizedWord
from orchestrator.transcript.models import Transcript, Turn, Word

_MS_PER_S = 1000


def join_windows(windows: Sequence[Window], recognitions: Sequence[Recognition]) -> Recognition:
    """One recognition of the whole from those of its windows, in the same order (at least one)."""
    estimated = any(recognition.times_estimated for recognition in recognitions)
    heard = [
        WindowWords(
            [_shift(word, _ms(window.start)) for word in recognition.words],
            start_ms=_ms(window.start),
            end_ms=_ms(window.end),
            cut_ms=_ms(window.cut),
        )
        for window, recognition in zip(windows, recognitions, strict=True)
    ]
    return Recognition(merge(heard, times_estimated=estimated), _main_language(recognitions), estimated)


@dataclass(frozen=True, slots=True)
class About:
    """What a transcript says of its recording: name, length in seconds, and the engine that heard it."""

    source: str
    duration_s: float
    engine: str


def transcript(recognition: Recognition, diarization: Diarization | None, about: About) -> Transcript:
    """The transcript of a recording that is one channel; speakers come from ``diarization``, if any."""
    words = _words(recognition)
    turns: tuple[Turn, ...] = ()
    exclusive: tuple[Turn, ...] = ()
    if diarization is None:
        segments = stitch.segments(words)
    else:
        turns, exclusive = stitch.name_turns(diarization.turns), stitch.name_turns(diarization.exclusive)
        segments = stitch.stitch(words, exclusive, turns, times_estimated=recognition.times_estimated)
    return Transcript(
        source=about.source,
        duration=about.duration_s,
        language=recognition.language or None,
        engine=about.engine,
        times_estimated=recognition.times_estimated,
        segments=segments,
        turns=turns,
        exclusive_turns=exclusive,
    )


def channel_transcript(recognitions: Sequence[Recognition], about: About) -> Transcript:
    """The transcript of a recording with one speaker a channel; words of all channels, by start.

    Words carry their channel, and ``overlap`` where another channel's words run at the same time. Segments
    stay whole: when two talk at once their segments overlap, instead of falling apart into single words.
    """
    channels = [
        [
            word.model_copy(
                update={
                    "channel": channel,
                    "speaker": stitch.speaker_name(channel),
                    "speaker_confidence": 1.0,
                }
            )
            for word in _words(recognition)
        ]
        for channel, recognition in enumerate(recognitions)
    ]
    marked = _mark_overlap(channels)
    parts = [stitch.segments(words) for words in marked]
    segments = tuple(heapq.merge(*parts, key=lambda segment: segment.start))
    return Transcript(
        source=about.source,
        duration=about.duration_s,
        language=_main_language(recognitions) or None,
        engine=about.engine,
        times_estimated=any(recognition.times_estimated for recognition in recognitions),
        segments=segments,
    )


def _mark_overlap(channels: Sequence[Sequence[Word]]) -> list[list[Word]]:
    """Set ``overlap`` on words during which a word of another channel is spoken; linear after sorting."""
    everything = sorted(
        (
            (word.start, word.end, channel, index)
            for channel, words in enumerate(channels)
            for index, word in enumerate(words)
        )
    )
    overlapping: set[tuple[int, int]] = set()
    latest: list[tuple[float, int, int] | None] = [None] * len(channels)  # a channel's word that ends last
    for start, end, channel, index in everything:
        for other, last in enumerate(latest):
            if other != channel and last is not None and last[0] > start and end > start:
                overlapping |= {(channel, index), (last[1], last[2])}
        mine = latest[channel]
        if mine is None or end > mine[0]:
            latest[channel] = (end, channel, index)
    return [
        [
            word.model_copy(update={"overlap": True}) if (channel, index) in overlapping else word
            for index, word in enumerate(words)
        ]
        for channel, words in enumerate(channels)
    ]


def _words(recognition: Recognition) -> list[Word]:
    return [
        Word(
            start=word.start_ms / _MS_PER_S,
            end=word.end_ms / _MS_PER_S,
            text=word.text,
            confidence=word.confidence,
            times_estimated=None if word.estimated == recognition.times_estimated else word.estimated,
        )
        for word in recognition.words
    ]


def _main_language(recognitions: Sequence[Recognition]) -> str:
    """The language of most words; of the first recognition where nothing was said."""
    counts: Counter[str] = Counter()
    for recognition in recognitions:
        counts[recognition.language] += len(recognition.words)
    return counts.most_common(1)[0][0] if counts else ""


def _shift(word: RecognizedWord, by_ms: int) -> RecognizedWord:
    return RecognizedWord(
        word.text, word.start_ms + by_ms, word.end_ms + by_ms, word.confidence, word.estimated
    )


def _ms(samples: int) -> int:
    return samples * _MS_PER_S // SAMPLE_RATE_HZ
