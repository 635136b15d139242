"""How many errors the whole service makes on recordings with references: WER, cpWER, DER."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.bench import diarization
from orchestrator.bench.recordings import Recording
from orchestrator.bench.report import Report, Row, versions
from orchestrator.bench.scoring import ErrorRate, speaker_error_rate, word_error_rate
from orchestrator.client import SpeechClient
from orchestrator.progress import ProgressReporter, SilentProgress
from orchestrator.transcript.models import Transcript


@dataclass(frozen=True, slots=True)
class Scores:
    """One recording's scores; None where there is no reference to score against."""

    wer: ErrorRate | None
    cpwer: ErrorRate | None
    der: float | None


def run(
    client: SpeechClient,
    recordings: Sequence[Recording],
    *,
    engine: str = "auto",
    progress: ProgressReporter | None = None,
) -> Report:
    """Transcribe each recording through the service and score it; the last row is all words as one text.

    Raises:
        MissingDependencyError: the extra ``[bench]`` is not installed.
        AudioError: a recording cannot be read.
        ServiceError: the server failed.
    """
    task = (progress or SilentProgress()).task("accuracy", total=len(recordings))
    rows: list[Row] = []
    total: list[ErrorRate] = []
    spent_s = heard_s = 0.0
    for done, recording in enumerate(recordings):
        begin = time.perf_counter()
        transcript = client.transcribe(
            recording.audio,
            engine=engine,
            diarize=recording.rttm is not None and not recording.separate,
            channels="separate" if recording.separate else "mix",
        )
        wall_s = time.perf_counter() - begin
        found = score(recording, transcript)
        total += [found.wer] if found.wer else []
        spent_s, heard_s = spent_s + wall_s, heard_s + transcript.duration
        rows.append(_row(recording.name, transcript.duration, wall_s, found))
        task.update(completed=done + 1)
    task.finish()
    whole = Scores(sum(total, ErrorRate(0, 0, 0, 0)), None, None)
    rows.append(_row("all", heard_s, spent_s, whole))
    return Report(
        title="Accuracy of the service",
        command="spark-speech bench accuracy --recordings FOLDER",
        rows=rows,
        notes=(
            "WER and cpWER after Whisper's English normaliser; DER without collar, overlap counted.",
            "Recordings without turns are not diarized; their time is recognition alone.",
        ),
        versions=versions(
            (
                "moonshine-voice",
                "pyannote.audio",
                "jiwer",
                "meeteval",
                "whisper-normalizer",
                "pyannote.metrics",
            )
        ),
    )


def score(recording: Recording, transcript: Transcript) -> Scores:
    """What can be scored of ``transcript``."""
    return Scores(
        wer=None if recording.text is None else word_error_rate(recording.text, transcript.text),
        cpwer=speaker_error_rate(recording.lines, transcript) if recording.lines else None,
        der=None if recording.rttm is None else _der(recording, transcript),
    )


def _der(recording: Recording, transcript: Transcript) -> float:
    spans = [(turn.start, turn.end, turn.speaker) for turn in transcript.turns]
    rate = diarization.score(recording, spans, transcript.duration)["der"]
    return float(rate or 0.0)


def _row(name: str, duration_s: float, wall_s: float, scores: Scores) -> Row:
    return {
        "recording": name,
        "seconds": round(duration_s, 1),
        "words": scores.wer.words if scores.wer else None,
        "WER": scores.wer.rate if scores.wer else None,
        "cpWER": scores.cpwer.rate if scores.cpwer else None,
        "DER": scores.der,
        "wall_s": round(wall_s, 2),
    }
