"""What the offline diarizer runs with, and what each value was chosen on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class DiarizerParameters:
    """Parameters of segmentation and of agglomerative clustering."""

    step: float = 0.25
    """From one 10 s window to the next, as a share of the window. 0.1 is pyannote's default and 0.25 takes
    less than half its time for the same errors, give or take a tenth of a second a minute."""
    threshold: float = 0.65
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
