"""What the offline diarizer runs with, and what each value was chosen on.

The threshold was swept from 0.5 to 1.2 at a step of 0.25 on two sets: five 30 s excerpts of AMI meetings
(trn01-04 and dev00 of pyannote.audio's tests; DER 0.260 for 0.85-1.0, 0.295 for 0.70-0.80, 0.345 below) and
fourteen conversations of about 50 s put together from single-speaker recordings (DER 0.331 at 0.75, 0.338 at
0.80, 0.339 for 0.85-0.90, then rising). 0.85 has the lowest sum. pyannote.audio's ``sample.wav`` is what is
reported and was not tuned on; every value from 0.60 to 0.95 gives it the same DER. Both sets are small and
English: for other material sweep anew with `orchestrator.bench.diarization`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class DiarizerParameters:
    """Parameters of segmentation and of agglomerative clustering."""

    step: float = 0.25
    """From one 10 s window to the next, as a share of the window. 0.1 is pyannote's default; 0.25 takes
    about two fifths of its time."""
    threshold: float = 0.85
    """Clusters nearer than this are one speaker: distance of centroids of unit-length embeddings, 0..2."""
    min_cluster_size: int = 5
    """Fewest windows that make a speaker; a tenth of the windows where that is less. pyannote's usual 12 is
    meant for steps of 0.1: the same 12 s of presence are 5 windows here."""
    min_duration_off_s: float = 0.0
    """Pauses of one speaker up to this many seconds are filled."""
    segmentation_batch: int = 16
    """Windows in one segmentation call."""
    embedding_batch: int = 24
    """(Window, speaker) pairs in one embedding call; a multiple of 3, the speakers of a window."""


DEFAULTS: Final = DiarizerParameters()
