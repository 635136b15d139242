"""``spark-speech bench word-times``: from a release and recordings to the report."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from orchestrator import engines
from orchestrator.audio import decode
from orchestrator.bench.festival import VOICES, say
from orchestrator.bench.recordings import from_folder
from orchestrator.bench.report import Report, versions
from orchestrator.bench.word_times import TimedSpeech, read_text_grid
from orchestrator.bench.word_times import run as measure
from orchestrator.contract import Task
from orchestrator.engines.base import EngineSource
from orchestrator.errors import ConfigurationError
from orchestrator.progress import ProgressReporter
from orchestrator.repository.plan import version_folder
from orchestrator.repository.release import Release
from orchestrator.training.corpus import Split
from orchestrator.training.corpus import sentences as corpus

_SEED: Final = 11


def run(release: Release, recordings: Path | None, sentences: int, *, progress: ProgressReporter) -> Report:
    """Measure the recognisers and the aligner of ``release``.

    Raises:
        ConfigurationError: there is nothing to measure with.
        MissingDependencyError: festival or an engine's library is not installed.
        ModelLoadError: a model cannot be loaded.
    """
    speech = [*_recorded(recordings), *_synthetic(sentences)]
    if not speech:
        raise ConfigurationError(
            "no speech with word times", fix="name a folder with --recordings, or ask for --sentences"
        )
    folder = release.model_repository
    models = release.manifest.models
    recognisers = {
        model.name: engines.load(model.engine, EngineSource(folder / version_folder(model.name)))
        for model in models
        if model.task == Task.RECOGNIZE
    }
    aligner = next(
        (
            engines.load_aligner(model.engine, EngineSource(folder / version_folder(model.name)))
            for model in models
            if model.task == Task.ALIGN
        ),
        None,
    )
    rows = measure(speech, recognisers, aligner, progress=progress)
    return Report(
        title="How far word times are off",
        command="spark-speech bench word-times --recordings FOLDER",
        rows=rows,
        notes=("Absolute differences of paired words; unpaired words were heard otherwise, or not found.",),
        versions=versions(("moonshine-voice", "onnxruntime", "torch", "torchaudio")),
    )


def _recorded(folder: Path | None) -> Iterator[TimedSpeech]:
    for recording in [] if folder is None else from_folder(folder):
        if recording.word_times is not None:
            audio = decode(recording.audio, channels="mix")
            yield TimedSpeech(recording.name, audio.samples[0], read_text_grid(recording.word_times))


def _synthetic(count: int) -> Iterator[TimedSpeech]:
    for voice in VOICES:
        for text in itertools.islice(corpus(Split.TEST, _SEED, min_words=4), count):
            samples, words = say(text, voice)
            yield TimedSpeech(f"festival {voice}", samples, words)
