"""A corpus on disk: many trimmed utterances in one file of 16-bit samples, and who said what where."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ArtifactNotFoundError
from orchestrator.progress import ProgressReporter
from orchestrator.training.corpus import FREE_WORDS, Split, sentences
from orchestrator.training.voices import SAMPLE_RATE_HZ, Samples, Voice, speak, training_voice

_FULL_SCALE = 32767.0
_AUDIO = "samples.i16"
_INDEX = "utterances.jsonl"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One spoken sentence inside the corpus file: where it lies, in samples at 16 kHz."""

    text: str
    voice: str
    start: int
    length: int


def plan(count: int, seed: int) -> list[tuple[str, Voice]]:
    """What ``count`` training utterances say and in which voices; pure and the same for the same seed.

    The first fifth are the single words, over and over.
    """
    rng = random.Random(f"voices:{seed}")
    words = itertools.islice(itertools.cycle(FREE_WORDS), count // 5)
    texts = itertools.islice(itertools.chain(words, sentences(Split.TRAIN, seed)), count)
    return [(text, training_voice(rng)) for text in texts]


def record(
    jobs: Sequence[tuple[str, Voice]], folder: Path, progress: ProgressReporter, *, workers: int = 2
) -> None:
    """Speak ``jobs`` into ``folder``; the index is written last, so a folder with one is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    task = progress.task("synthesise", total=len(jobs))
    start = 0
    rows: list[Utterance] = []
    with (folder / _AUDIO).open("wb") as out, ProcessPoolExecutor(workers) as pool:
        texts, voices = (text for text, _ in jobs), (voice for _, voice in jobs)
        spoken = pool.map(speak, texts, voices, chunksize=16)
        for (text, voice), audio in zip(jobs, spoken, strict=True):
            out.write((audio * _FULL_SCALE).astype("<i2").tobytes())
            rows.append(Utterance(text, f"{voice.program}/{voice.name}", start, audio.size))
            start += audio.size
            task.update(completed=len(rows))
    partial = folder / f"{_INDEX}.part"
    partial.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
    partial.replace(folder / _INDEX)
    task.finish(f"synthesised {start / SAMPLE_RATE_HZ / 3600:.1f} h")


class Recordings:
    """A corpus read from disk; the samples stay in the page cache and are shared by loader processes."""

    def __init__(self, folder: Path) -> None:
        """Open the corpus in ``folder``.

        Raises:
            ArtifactNotFoundError: there is no complete corpus.
        """
        if not (folder / _INDEX).is_file():
            raise ArtifactNotFoundError(
                "no corpus here", path=folder, fix="python -m orchestrator.training corpus --out FOLDER"
            )
        lines = (folder / _INDEX).read_text(encoding="utf-8").splitlines()
        self.utterances = [Utterance(**json.loads(line)) for line in lines]
        self._samples: NDArray[np.int16] = np.memmap(folder / _AUDIO, dtype="<i2", mode="r")

    def audio(self, utterance: Utterance) -> Samples:
        """The samples of one utterance, float32, peak 0.7."""
        part = self._samples[utterance.start : utterance.start + utterance.length]
        return np.asarray(part, dtype=np.float32) / np.float32(_FULL_SCALE)

    def texts(self) -> Iterable[str]:
        """What is said, utterance by utterance."""
        return (utterance.text for utterance in self.utterances)
