"""A dialogue of two voices, for tests of what clients send."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from orchestrator import resources

DIALOGUE = Path(resources.__file__).parent / "training" / "checkpoint" / "dialogue.flac"


@dataclass(frozen=True)
class Talk:
    """The dialogue of two voices in files of several kinds, and what is said in it."""

    wav: Path
    stereo: Path
    flac: Path
    opus: Path
    mulaw: Path
    short: Path
    text: str


def write(folder: Path) -> Talk:
    """Put the files into ``folder``."""
    samples, rate = soundfile.read(DIALOGUE, dtype="float32")
    made = Talk(
        *(folder / name for name in ("a.wav", "stereo.wav", "a.flac", "a.opus", "mulaw.wav", "short.wav")),
        json.loads(DIALOGUE.with_suffix(".json").read_text())["text"],
    )
    soundfile.write(made.wav, samples, rate, subtype="PCM_16")
    soundfile.write(made.stereo, np.stack([samples, samples], axis=1), rate, subtype="PCM_16")
    soundfile.write(made.flac, samples, rate)
    soundfile.write(made.opus, samples, rate, format="OGG", subtype="OPUS")
    soundfile.write(made.mulaw, samples, rate, subtype="ULAW")
    soundfile.write(made.short, samples[: 6 * rate], rate, subtype="PCM_16")
    return made
