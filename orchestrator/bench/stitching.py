"""How fast words are given their speakers, and how the time grows.

Costs apart: ``array core`` is `label_arrays` alone, for measured word times; ``estimated`` is the same where
changes of speaker also move to punctuation, with reading the marks from the words; ``transcript`` is `stitch`
as the client calls it, with a pydantic object built for every word and segment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from orchestrator.bench.report import Row
from orchestrator.diarization.labels import ESTIMATED, TurnArrays, label_arrays
from orchestrator.diarization.punctuation import marks_after
from orchestrator.diarization.stitch import stitch
from orchestrator.transcript.models import Turn, Word

HOURS: Final = 24
WORDS_PER_DAY: Final = 250_000
"""Speech in 24 hours of conversation, at about 175 words a minute."""
TURNS_PER_DAY: Final = 30_000


def conversation(words: int, turns: int, seed: int = 0) -> tuple[TurnArrays, TurnArrays, TurnArrays]:
    """A synthetic conversation of four speakers: words (speaker 0), exclusive turns, full turns.

    Words follow one another with short pauses and now and then overlap by some ms; turns have random lengths,
    holes between them, and one in ten of the full turns runs into the next.
    """
    rng = np.random.default_rng(seed)
    total_ms = HOURS * 3_600_000 * words // WORDS_PER_DAY
    slot = total_ms // words
    start = np.arange(words) * slot + rng.integers(0, slot // 2, words)
    end = start + rng.integers(80, slot, words)
    turn_slot = total_ms // turns
    turn_start = np.arange(turns) * turn_slot + rng.integers(0, turn_slot // 4, turns)
    turn_end = turn_start + rng.integers(turn_slot // 4, turn_slot * 3 // 4, turns)
    speaker = rng.integers(0, 4, turns)
    longer = turn_end + np.where(rng.random(turns) < 0.1, turn_slot // 2, 0)
    return (
        TurnArrays(start, end, np.zeros(words, dtype=np.int64)),
        TurnArrays(turn_start, turn_end, speaker),
        TurnArrays(turn_start, longer, speaker),
    )


def run(scales: Sequence[int] = (1, 2, 4), repeats: int = 5) -> list[Row]:
    """Best time of ``repeats`` runs, in seconds, for ``scales`` times 24 hours of speech.

    Rows: ``what, hours, words, turns, seconds, growth`` with ``growth`` the time relative to the first scale.
    """
    rows: list[Row] = []
    for what, measure in (("array core", _core), ("estimated", _estimated), ("transcript", _transcript)):
        base = 0.0
        for scale in scales:
            words, turns = WORDS_PER_DAY * scale, TURNS_PER_DAY * scale
            job = measure(words, turns)
            seconds = min(_timed(job) for _ in range(repeats))
            base = base or seconds
            rows.append(
                {
                    "what": what,
                    "hours": HOURS * scale,
                    "words": words,
                    "turns": turns,
                    "seconds": round(seconds, 4),
                    "growth": round(seconds / base, 2),
                }
            )
    return rows


def _core(words: int, turns: int) -> Callable[[], object]:
    spoken, exclusive, full = conversation(words, turns)
    return lambda: label_arrays(spoken.start, spoken.end, exclusive, full)


def _estimated(words: int, turns: int) -> Callable[[], object]:
    spoken, exclusive, full = conversation(words, turns)
    texts = ["word." if index % 12 == 0 else "word" for index in range(words)]  # a sentence of 12 words

    def job() -> object:
        return label_arrays(spoken.start, spoken.end, exclusive, full, ESTIMATED, marks_after(texts))

    return job


def _transcript(words: int, turns: int) -> Callable[[], object]:
    spoken, exclusive, full = conversation(words, turns)
    listed = [
        Word(start=start / 1000, end=end / 1000, text="word")
        for start, end in zip(spoken.start.tolist(), spoken.end.tolist(), strict=True)
    ]
    named = [
        [
            Turn(start=start / 1000, end=end / 1000, speaker=f"SPEAKER_{speaker:02d}")
            for start, end, speaker in zip(
                side.start.tolist(), side.end.tolist(), side.speaker.tolist(), strict=True
            )
        ]
        for side in (exclusive, full)
    ]
    return lambda: stitch(listed, named[0], named[1])


def _timed(job: Callable[[], object]) -> float:
    begin = time.perf_counter()
    job()
    return time.perf_counter() - begin
