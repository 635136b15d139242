"""Words + turns -> words with speakers -> segments, on the transcript's own types.

The rules are in `orchestrator.diarization.labels`; this module translates between them and
`orchestrator.transcript.models`. Word labels come first and segments follow from them, so the two cannot
disagree. A word never loses its text, place or times.

Word times that were estimated (spread inside a line) are a word or two off, so changes of speaker cut through
sentences. Pass ``times_estimated=True``: changes then move to punctuation nearby
(`orchestrator.diarization.punctuation`) and smoothing is wider. Labels stay approximate: keep the flag on the
transcript.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np

from orchestrator.diarization.base import SpeakerTurn
from orchestrator.diarization.labels import (
    ESTIMATED,
    MEASURED,
    NO_SPEAKER,
    LabelRules,
    TurnArrays,
    label_arrays,
)
from orchestrator.diarization.punctuation import Bools, Ints, marks_after
from orchestrator.transcript.models import Segment, Turn, Word

SEGMENT_PAUSE_MS: Final = 1500
"""A pause this long between words starts a new segment of the same speaker: longer than the pauses inside a
sentence (most are under a second), shorter than a change of subject."""

MS_PER_S: Final = 1000


def speaker_name(speaker: int) -> str:
    """The name of speaker number ``speaker``, as pyannote writes it: ``SPEAKER_00``."""
    return f"SPEAKER_{speaker:02d}"


def name_turns(turns: Sequence[SpeakerTurn], names: Sequence[str] | None = None) -> tuple[Turn, ...]:
    """The diarizer's turns as the transcript's; ``names[i]`` is speaker i, `speaker_name` by default."""
    return tuple(
        Turn(
            start=turn.start_ms / MS_PER_S,
            end=turn.end_ms / MS_PER_S,
            speaker=speaker_name(turn.speaker) if names is None else names[turn.speaker],
        )
        for turn in turns
    )


def label_words(
    words: Sequence[Word],
    exclusive: Sequence[Turn],
    turns: Sequence[Turn] | None = None,
    *,
    times_estimated: bool = False,
    rules: LabelRules | None = None,
) -> tuple[Word, ...]:
    """The same words with ``speaker``, ``speaker_confidence`` and ``overlap`` set.

    Args:
        words: in reading order; they may overlap a little.
        exclusive: turns of which at most one is active at a time: they decide the speaker.
        turns: the full turns, which may overlap: they decide ``overlap``. None: the exclusive ones, so that
            no word is marked.
        times_estimated: the words' times were spread inside a longer line; changes move to punctuation.
        rules: other bounds than `MEASURED` or `ESTIMATED`.
    """
    turns = exclusive if turns is None else turns
    names = list(dict.fromkeys(turn.speaker for turn in (*exclusive, *turns)))
    index = {name: number for number, name in enumerate(names)}
    labels = label_arrays(
        _ms([word.start for word in words]),
        _ms([word.end for word in words]),
        _turn_arrays(exclusive, index),
        _turn_arrays(turns, index),
        rules or (ESTIMATED if times_estimated else MEASURED),
        marks_after(word.text for word in words) if times_estimated else None,
    )
    by_label = (*names, None)  # NO_SPEAKER, -1, is the last
    return tuple(
        word.model_copy(
            update={
                "speaker": by_label[speaker],
                "speaker_confidence": None if speaker == NO_SPEAKER else confidence,
                "overlap": overlap,
            }
        )
        for word, speaker, confidence, overlap in zip(
            words, labels.speaker.tolist(), labels.confidence.tolist(), labels.overlap.tolist(), strict=True
        )
    )


def segments(
    words: Sequence[Word], *, pause_ms: int = SEGMENT_PAUSE_MS, max_segment_ms: int | None = None
) -> tuple[Segment, ...]:
    """Runs of words with the same speaker, split at pauses of ``pause_ms`` or more.

    With ``max_segment_ms`` a run is also cut before the word that would make it longer than that; a single
    word longer than the bound stays whole. Words without a speaker form segments without one.
    """
    if not words:
        return ()
    start, end = _ms([word.start for word in words]), _ms([word.end for word in words])
    speakers: dict[str | None, int] = {}
    label = np.array([speakers.setdefault(word.speaker, len(speakers)) for word in words], dtype=np.int64)
    breaks = _breaks(start, end, label, pause_ms)
    if max_segment_ms is not None:
        _add_length_breaks(breaks, start, end, max_segment_ms)
    bounds = [*np.flatnonzero(breaks).tolist(), len(words)]
    return tuple(_segment(words[begin:stop]) for begin, stop in itertools.pairwise(bounds))


def stitch(
    words: Sequence[Word],
    exclusive: Sequence[Turn],
    turns: Sequence[Turn] | None = None,
    *,
    times_estimated: bool = False,
    pause_ms: int = SEGMENT_PAUSE_MS,
    max_segment_ms: int | None = None,
) -> tuple[Segment, ...]:
    """`label_words`, then `segments`."""
    labelled = label_words(words, exclusive, turns, times_estimated=times_estimated)
    return segments(labelled, pause_ms=pause_ms, max_segment_ms=max_segment_ms)


def _ms(seconds: Sequence[float]) -> Ints:
    return np.rint(np.asarray(seconds, dtype=np.float64) * MS_PER_S).astype(np.int64)


def _turn_arrays(turns: Sequence[Turn], index: dict[str, int]) -> TurnArrays:
    return TurnArrays(
        start=_ms([turn.start for turn in turns]),
        end=_ms([turn.end for turn in turns]),
        speaker=np.array([index[turn.speaker] for turn in turns], dtype=np.int64),
    )


def _breaks(start: Ints, end: Ints, label: Ints, pause_ms: int) -> Bools:
    """True where a word starts a segment."""
    reach = np.maximum.accumulate(end)
    breaks = np.ones(start.size, dtype=np.bool_)
    breaks[1:] = (label[1:] != label[:-1]) | (start[1:] - reach[:-1] >= pause_ms)
    return breaks


def _add_length_breaks(breaks: Bools, start: Ints, end: Ints, max_segment_ms: int) -> None:
    begin = int(start[0])
    for word in range(start.size):
        if breaks[word] or end[word] - begin > max_segment_ms:
            breaks[word] = True
            begin = int(start[word])


def _segment(words: Sequence[Word]) -> Segment:
    return Segment(
        start=min(word.start for word in words),
        end=max(word.end for word in words),
        text=" ".join(word.text for word in words),
        speaker=words[0].speaker,
        words=tuple(words),
    )
