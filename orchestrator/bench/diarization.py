"""DER of the diarizer alone, in process, on recordings whose speaker turns are known.

DER (diarization error rate) = (missed speech + false alarm + speaker confusion) / reference speech, with the
best pairing of speakers, overlapping speech counted (pyannote.metrics). With a collar of 0.25 s, a quarter of
a second on both sides of every reference boundary is not scored.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from orchestrator import audio
from orchestrator.bench.recordings import Recording, packaged
from orchestrator.bench.report import Cell
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.diarization.parameters import DEFAULTS, DiarizerParameters
from orchestrator.diarization.pyannote_import import import_pyannote
from orchestrator.errors import TranscriptFormatError
from orchestrator.progress import ProgressReporter, SilentProgress

Span = tuple[float, float, str | int]
"""Start and end in seconds, speaker."""

COLLAR_S: Final = 0.25
MS_PER_S: Final = 1000
PACKAGES: Final = ("pyannote.audio", "pyannote.metrics", "torch")
"""What decides the figures."""


def run(
    model: Path,
    recordings: Iterable[Recording] | None = None,
    *,
    parameters: DiarizerParameters = DEFAULTS,
    device: str = "cpu",
    threads: int | None = None,
    progress: ProgressReporter | None = None,
) -> list[dict[str, Cell]]:
    """Diarize and score every recording that has turns.

    Scored is the whole recording, or what a ``.uem`` file beside it says.

    Args:
        model: the diarizer's folder, as for `orchestrator.diarization.load`.
        recordings: `orchestrator.bench.recordings`; by default the one that pyannote.audio carries.
        parameters: for the offline set.
        device: a torch device name.
        threads: CPU threads for torch.
        progress: where the share done is reported.

    Returns:
        Rows ``recording, seconds, speakers, found, der, missed, false_alarm, confusion, der_collar, wall_s``:
        rates are shares of the reference speech; ``der_collar`` has a collar of 0.25 s on each side, None
        where nothing is left to score.

    Raises:
        MissingDependencyError: pyannote is not installed.
        ModelLoadError: the model cannot be loaded.
        AudioDecodeError, TranscriptFormatError: a recording or its turns cannot be read.
    """
    from orchestrator.diarization import load

    chosen = [item for item in (recordings or [packaged()]) if item.rttm is not None]
    diarizer = load(model, device, threads, parameters)
    task = (progress or SilentProgress()).task("diarization", total=len(chosen))
    rows: list[dict[str, Cell]] = []
    for done, recording in enumerate(chosen, start=1):
        samples = audio.decode(recording.audio).samples[0]
        begin = time.perf_counter()
        turns = diarizer.diarize(samples).turns
        wall_s = time.perf_counter() - begin
        spans = [(turn.start_ms / MS_PER_S, turn.end_ms / MS_PER_S, turn.speaker) for turn in turns]
        row: dict[str, Cell] = {
            "recording": recording.name,
            "seconds": round(samples.size / SAMPLE_RATE_HZ, 1),
        }
        row |= score(recording, spans, samples.size / SAMPLE_RATE_HZ)
        rows.append(row | {"wall_s": round(wall_s, 2)})
        task.update(completed=done)
    task.finish()
    return rows


def score(recording: Recording, turns: Iterable[Span], duration_s: float) -> dict[str, Cell]:
    """The scores of ``turns`` against the recording's reference, see `run`.

    Raises:
        MissingDependencyError: pyannote is not installed.
        TranscriptFormatError: the reference holds no turns.
    """
    import_pyannote()
    from pyannote.core import Annotation, Segment
    from pyannote.metrics.diarization import DiarizationErrorRate

    reference, scored = _reference(recording, duration_s)
    hypothesis = Annotation()
    for track, turn in enumerate(turns):
        start, end, speaker = turn
        hypothesis[Segment(start, end), track] = speaker
    parts = DiarizationErrorRate()(reference, hypothesis, uem=scored, detailed=True)
    # pyannote.metrics takes the collar's whole width, both sides together.
    collar = DiarizationErrorRate(collar=2 * COLLAR_S)(reference, hypothesis, uem=scored, detailed=True)
    total = parts["total"]
    return {
        "speakers": len(reference.labels()),
        "found": len(hypothesis.labels()),
        "der": round(parts["diarization error rate"], 4),
        "missed": round(parts["missed detection"] / total, 4),
        "false_alarm": round(parts["false alarm"] / total, 4),
        "confusion": round(parts["confusion"] / total, 4),
        "der_collar": round(collar["diarization error rate"], 4) if collar["total"] else None,
    }


def _reference(recording: Recording, duration_s: float) -> tuple[Any, Any]:
    from pyannote.core import Segment, Timeline
    from pyannote.database.util import load_rttm, load_uem

    turns = list(load_rttm(recording.rttm).values()) if recording.rttm else []  # type: ignore[no-untyped-call]
    if not turns:
        raise TranscriptFormatError(
            f"{recording.name} has no reference turns",
            path=recording.rttm,
            fix="name an RTTM file with turns in the manifest",
        )
    uem = recording.audio.with_suffix(".uem")
    if uem.is_file():
        regions = list(load_uem(uem).values())  # type: ignore[no-untyped-call]
        if regions:
            return turns[0], regions[0]
    return turns[0], Timeline([Segment(0.0, duration_s)])
