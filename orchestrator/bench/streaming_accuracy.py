"""What live streams cost in words against the same recordings at once, and how long words take: by preset."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from orchestrator import audio
from orchestrator.bench.recordings import Recording
from orchestrator.bench.report import Report, Row, versions
from orchestrator.bench.scoring import ErrorRate, word_error_rate
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines import (
    EngineSource,
    RecognizedWord,
    Recognizer,
    load,
    load_streaming,
)
from orchestrator.engines.base import Samples
from orchestrator.engines.fastconformer.loading import CHECKPOINT_NAME
from orchestrator.engines.streaming import Chunk, StreamingRecognizer
from orchestrator.engines.streaming_presets import PRESETS, Contexts
from orchestrator.errors import ConfigurationError
from orchestrator.progress import ProgressReporter, SilentProgress

CHECKPOINT: Final = Path(__file__).parents[1] / "training" / "checkpoint"
"""The small recogniser in this package, and a dialogue that it knows."""
STREAMS: Final = 16
"""Recordings streamed side by side."""
SYNTHETIC: Final = (
    "espeak-ng, held-out voices, 145-160 wpm",
    "25-30 s, joined with pauses",
    "pink noise, 10 dB",
    "3 s silence before and after",
)
"""Of the small recogniser's test sets, those that differ as streams do."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A recording and what it says."""

    audio: Samples
    text: str


@dataclass(frozen=True, slots=True)
class Caption:
    """What a stream said.

    Attributes:
        words: of its finals.
        shown_ms: of each word, how much audio after its end had been sent when it was first shown.
        final_ms: of each utterance, how much audio after its last word had been sent when it became final.
    """

    words: tuple[RecognizedWord, ...]
    shown_ms: tuple[int, ...]
    final_ms: tuple[int, ...]

    @property
    def text(self) -> str:
        """The words, joined by single spaces."""
        return " ".join(word.text for word in self.words)


def run(
    folder: Path | None = None,
    recordings: Sequence[Recording] | None = None,
    *,
    count: int = 40,
    device: str = "cpu",
    progress: ProgressReporter | None = None,
) -> Report:
    """Score every preset on every set of recordings, next to the whole recordings.

    Args:
        folder: weights of Parakeet; None for the small recogniser in this package.
        recordings: with references; None for the dialogue in this package and, where espeak-ng is installed,
            sentences made with it.
        count: sentences of each made set.
        device: a torch device.
        progress: where to report.

    Raises:
        MissingDependencyError: the extra ``[bench]`` or ``[serve]`` is not installed.
        ModelLoadError: the weights cannot be used.
        ConfigurationError: no recording has a reference.
    """
    progress = progress or SilentProgress()
    sets = packaged_sets(count, progress) if recordings is None else sets_of(recordings)
    task = progress.task("streams", total=len(sets) * (1 + len(PRESETS)))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="spark-speech-bench-") as made:
        weights = folder or _packaged_weights(Path(made))
        recognizer = load("parakeet", EngineSource(weights, device))
        whole: dict[str, list[str]] = {}
        for name, samples in sets.items():
            found = [_at_once(recognizer, sample.audio) for sample in samples]
            whole[name] = found
            rows.append(_row(name, "file", None, samples, found, found, []))
            task.update(completed=len(rows))
        recognizer.close()
        for preset, contexts in PRESETS.items():
            options = {"preset": preset, "max_streams": STREAMS}
            engine = load_streaming("parakeet_streaming", EngineSource(weights, device, options=options))
            for name, samples in sets.items():
                captions = stream(engine, [sample.audio for sample in samples])
                texts = [caption.text for caption in captions]
                rows.append(_row(name, preset, contexts, samples, texts, whole[name], captions))
                task.update(completed=len(rows))
            engine.close()
    task.finish()
    rows.sort(key=lambda row: list(sets).index(str(row["set"])))
    return Report(
        title="Accuracy of live streams",
        command="spark-speech bench streaming-accuracy",
        rows=rows,
        notes=(
            "WER against the reference after Whisper's English normaliser; changed: words that differ from "
            "those of the whole file, for each of its words.",
            "shown: audio sent after a word's end when it is first shown; final: after the last word of an "
            "utterance when it becomes final. Computing and the network come on top.",
            "window_s a chunk: what the encoder hears again and again for each second of audio.",
        ),
        versions=versions(("torch", "jiwer", "whisper-normalizer")),
    )


def stream(engine: StreamingRecognizer, recordings: Sequence[Samples]) -> list[Caption]:
    """Stream recordings in regular chunks, some at a time, the longest first."""
    order = sorted(range(len(recordings)), key=lambda row: -recordings[row].size)
    found: dict[int, Caption] = {}
    for begin in range(0, len(order), engine.info.max_streams):
        rows = order[begin : begin + engine.info.max_streams]
        captions = _together(engine, [recordings[row] for row in rows])
        found.update(zip(rows, captions, strict=True))
    return [found[row] for row in range(len(recordings))]


class _Listener:
    """One stream and what its client sees."""

    def __init__(self, number: int, recording: Samples) -> None:
        self.number = number
        self.recording = recording
        self.sent = 0
        self.words: list[RecognizedWord] = []
        self.shown_at: list[int] = []
        self.final_ms: list[int] = []

    def chunk(self, size: int) -> Chunk:
        begin, self.sent = self.sent, min(self.sent + size, self.recording.size)
        return Chunk(self.number, self.recording[begin : self.sent], last=self.sent == self.recording.size)

    def caption(self) -> Caption:
        shown = tuple(at - word.end_ms for at, word in zip(self.shown_at, self.words, strict=False))
        return Caption(tuple(self.words), shown, tuple(self.final_ms))


def _together(engine: StreamingRecognizer, recordings: Sequence[Samples]) -> list[Caption]:
    size = engine.info.chunk_ms * SAMPLE_RATE_HZ // 1000
    listeners = [_Listener(engine.open(), recording) for recording in recordings]
    open_now = listeners
    while open_now:
        chunks = [listener.chunk(size) for listener in open_now]
        for listener, update in zip(open_now, engine.step(chunks), strict=True):
            now = listener.sent * 1000 // SAMPLE_RATE_HZ
            seen = len(listener.words)
            for segment in update.segments:
                if segment.final:
                    listener.words += segment.words
                    listener.final_ms.append(now - segment.words[-1].end_ms)
                    seen = len(listener.words)
                else:
                    seen = len(listener.words) + len(segment.words)
            listener.shown_at += [now] * (seen - len(listener.shown_at))
        open_now = [listener for listener, chunk in zip(open_now, chunks, strict=True) if not chunk.last]
    return [listener.caption() for listener in listeners]


def packaged_sets(count: int, progress: ProgressReporter) -> dict[str, list[Sample]]:
    """The dialogue in this package, and made sentences where a synthesiser is installed."""
    from orchestrator.training.evaluate import held_out_sets
    from orchestrator.training.voices import HELD_OUT_ESPEAK, is_available

    text = json.loads((CHECKPOINT / "dialogue.json").read_text(encoding="utf-8"))["text"]
    sets = {"dialogue.flac": [Sample(audio.decode(CHECKPOINT / "dialogue.flac").samples[0], text)]}
    if is_available(HELD_OUT_ESPEAK[0]):
        made = held_out_sets(count, 11, progress)
        for name in SYNTHETIC:
            sets[name] = [Sample(sample.audio, sample.text) for sample in made[name]]
    return sets


def sets_of(recordings: Sequence[Recording]) -> dict[str, list[Sample]]:
    """Each recording that has a reference as a set of its own; channels are mixed.

    Raises:
        ConfigurationError: none has one.
    """
    sets = {
        recording.name: [Sample(audio.decode(recording.audio).samples.mean(axis=0), recording.text)]
        for recording in recordings
        if recording.text is not None
    }
    if not sets:
        raise ConfigurationError(
            "none of the recordings has a reference", fix='add "text" to the entries of manifest.json'
        )
    return sets


def _packaged_weights(folder: Path) -> Path:
    (checkpoint,) = CHECKPOINT.glob("*.nemo")
    (folder / CHECKPOINT_NAME).symlink_to(checkpoint)
    return folder


def _at_once(recognizer: Recognizer, recording: Samples) -> str:
    return recognizer.recognize([recording])[0].text


def _row(
    name: str,
    mode: str,
    contexts: Contexts | None,
    samples: Sequence[Sample],
    texts: Sequence[str],
    whole: Sequence[str],
    captions: Sequence[Caption],
) -> Row:
    none = ErrorRate(0, 0, 0, 0)
    errors = sum((word_error_rate(s.text, t) for s, t in zip(samples, texts, strict=True)), none)
    changed = sum((word_error_rate(w, t) for w, t in zip(whole, texts, strict=True)), none)
    shown = [ms for caption in captions for ms in caption.shown_ms]
    final = [ms for caption in captions for ms in caption.final_ms]
    lengths: dict[str, int | float | None] = dict.fromkeys(("chunk_ms", "left_ms", "right_ms", "window_s"))
    if contexts is not None:
        lengths = {**asdict(contexts), "window_s": sum(asdict(contexts).values()) / 1000}
    return {
        "set": name,
        "heard": mode,
        **lengths,
        "words": errors.words,
        "WER": errors.rate,
        "changed": None if contexts is None else changed.rate,
        "shown_p50_ms": _percentile(shown, 50),
        "shown_p95_ms": _percentile(shown, 95),
        "final_p50_ms": _percentile(final, 50),
    }


def _percentile(values: Sequence[int], percent: float) -> int | None:
    return round(float(np.percentile(values, percent))) if values else None
