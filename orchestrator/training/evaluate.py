"""How well a checkpoint recognises what it has never heard: test sets, word error rate, the table."""

from __future__ import annotations

import itertools
import random
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.errors import ModelLoadError
from orchestrator.progress import ProgressReporter
from orchestrator.training.augment import add_noise, colored_noise, join, silence, telephone
from orchestrator.training.corpus import VOCABULARY, Split, sentences
from orchestrator.training.voices import (
    FAST_RATES,
    HELD_OUT_ESPEAK,
    HELD_OUT_PROGRAMS,
    ORDINARY_RATES,
    SAMPLE_RATE_HZ,
    Samples,
    Voice,
    is_available,
    speak,
    training_voice,
)
from orchestrator.transcript.wording import word_errors

_EDGES_S = (0.2, 0.2)
_LONG_S = 25.0
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """One test recording and what it says."""

    audio: Samples
    text: str


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of one test set, in words.

    Attributes:
        recordings: how many recordings.
        words: words in the references.
        errors: substitutions, deletions and insertions.
        exact: recordings without any error.
    """

    name: str
    recordings: int
    words: int
    errors: int
    exact: int

    @property
    def wer(self) -> float:
        """Word error rate, 0 and up; errors themselves where the references are empty."""
        return self.errors / max(1, self.words)


def score(name: str, references: Sequence[str], hypotheses: Sequence[str]) -> Score:
    """Compare two lists of texts, pair by pair."""
    errors = [
        word_errors(reference.split(), hypothesis.split())
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    words = sum(len(reference.split()) for reference in references)
    return Score(name, len(references), words, sum(errors), errors.count(0))


def _clean(count: int, seed: int, voice: Callable[[random.Random], Voice]) -> list[Sample]:
    rng = random.Random(f"test voices:{seed}")
    texts = itertools.islice(sentences(Split.TEST, seed, min_words=2), count)
    return [Sample(join([speak(text, voice(rng))], _EDGES_S), text) for text in texts]


def _with_noise(samples: Sequence[Sample], snr_db: float, exponent: float, seed: int) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [
        Sample(add_noise(s.audio, colored_noise(rng, s.audio.size, exponent), snr_db), s.text)
        for s in samples
    ]


def _with_babble(samples: Sequence[Sample], snr_db: float) -> list[Sample]:
    """Each recording with six others of the set talking behind it."""
    out = []
    for index, sample in enumerate(samples):
        others = [samples[(index + k) % len(samples)].audio for k in range(1, 7)]
        babble = np.sum([np.resize(other, sample.audio.shape) for other in others], axis=0)
        out.append(Sample(add_noise(sample.audio, babble.astype(np.float32), snr_db), sample.text))
    return out


def _joined(samples: Sequence[Sample], seconds: float, seed: int) -> list[Sample]:
    """Neighbours joined, with pauses of 0.2 to 2 s around and between, to at least ``seconds``."""
    rng = random.Random(f"joined:{seed}")
    out: list[Sample] = []
    held: list[Sample] = []
    for sample in samples:
        held.append(sample)
        if sum(part.audio.size for part in held) / SAMPLE_RATE_HZ >= seconds:
            gaps = [rng.uniform(0.2, 2.0) for _ in range(len(held) + 1)]
            out.append(Sample(join([s.audio for s in held], gaps), " ".join(s.text for s in held)))
            held = []
    return out


def _ordinary(rng: random.Random) -> Voice:
    return training_voice(rng, flite=0.0, rates=ORDINARY_RATES)


def _fast(rng: random.Random) -> Voice:
    return training_voice(rng, flite=0.0, rates=FAST_RATES)


def _flite(rng: random.Random) -> Voice:
    return training_voice(rng, flite=1.0)


def _held_out(rng: random.Random) -> Voice:
    return rng.choice(HELD_OUT_ESPEAK)


def _always(voice: Voice, _: random.Random) -> Voice:
    return voice


def held_out_sets(count: int, seed: int, progress: ProgressReporter) -> dict[str, list[Sample]]:
    """The test sets by name, ``count`` sentences each; sets whose synthesiser is missing are left out."""
    programs = [voice for voice in HELD_OUT_PROGRAMS if is_available(voice)]
    task = progress.task("synthesise test sets", total=4)
    clean = _clean(count, seed, _ordinary)
    sets = {"espeak-ng, training voices, 110-170 wpm": clean}
    task.update(completed=1)
    sets["espeak-ng, held-out voices, 145-160 wpm"] = _clean(count, seed + 1, _held_out)
    sets["espeak-ng, training voices, 171-200 wpm"] = _clean(count, seed + 3, _fast)
    sets["flite, training voices"] = _clean(count, seed + 4, _flite)
    task.update(completed=2)
    for voice in programs:
        name = f"{voice.program}, held-out voice {voice.name}"
        sets[name] = _clean(count // 2, seed + 2, partial(_always, voice))
    task.update(completed=3)
    sets |= {
        "pink noise, 20 dB": _with_noise(clean, 20, 1.0, seed),
        "pink noise, 10 dB": _with_noise(clean, 10, 1.0, seed),
        "white noise, 10 dB": _with_noise(clean, 10, 0.0, seed),
        "six voices behind, 15 dB": _with_babble(clean, 15),
        "8 kHz mu-law line": [Sample(telephone(s.audio), s.text) for s in clean],
        "3 s silence before and after": [Sample(join([s.audio], (3.0, 3.0)), s.text) for s in clean],
        "quiet (-30 dB)": [Sample(s.audio * np.float32(10 ** (-30 / 20)), s.text) for s in clean],
        "25-30 s, joined with pauses": _joined(clean, _LONG_S, seed),
    }
    rng = random.Random(f"words:{seed}")
    sets["single words"] = [
        Sample(join([speak(word, _ordinary(rng))], _EDGES_S), word) for word in VOCABULARY
    ]
    noise = np.random.default_rng(seed)
    sets["no speech, 10 s (words put in)"] = [Sample(silence(10.0), "")] + [
        Sample(np.float32(0.02) * colored_noise(noise, 10 * SAMPLE_RATE_HZ, exponent), "")
        for exponent in (0.0, 0.5, 1.0, 1.5, 2.0)
    ]
    task.finish("test sets ready")
    return sets


def restore(path: Path) -> Any:
    """The checkpoint, by NeMo's own loader, on the CPU and ready to transcribe.

    Raises:
        ModelLoadError: it cannot be restored.
    """
    import torch
    from nemo.collections.asr.models import ASRModel

    try:
        model: Any = ASRModel.restore_from(str(path), map_location=torch.device("cpu"))
    except (OSError, tarfile.TarError, RuntimeError, ValueError, KeyError) as error:
        raise ModelLoadError(f"NeMo cannot restore the checkpoint: {error}", path=path) from error
    return model.eval()


def transcribe(model: Any, recordings: Sequence[Samples]) -> list[str]:
    """The texts of ``recordings`` by NeMo's ``transcribe``."""
    hypotheses = model.transcribe(list(recordings), batch_size=_BATCH, verbose=False)
    return [hypothesis.text for hypothesis in hypotheses]


def evaluate(model: Any, sets: dict[str, list[Sample]], progress: ProgressReporter) -> list[Score]:
    """The score of ``model`` on each test set, in the order of ``sets``."""
    task = progress.task("recognise", total=len(sets))
    scores = []
    for number, (name, samples) in enumerate(sets.items(), 1):
        texts = transcribe(model, [sample.audio for sample in samples])
        scores.append(score(name, [sample.text for sample in samples], texts))
        task.update(completed=number)
    task.finish()
    return scores


def table(scores: Sequence[Score]) -> str:
    """The scores as a Markdown table."""
    lines = ["| test set | recordings | words | errors | WER | exact |", "|---|---|---|---|---|---|"]
    for one in scores:
        wer = f"{100 * one.wer:.1f}%" if one.words else "-"
        exact = f"{one.exact}/{one.recordings}"
        lines.append(f"| {one.name} | {one.recordings} | {one.words} | {one.errors} | {wer} | {exact} |")
    return "\n".join(lines)
