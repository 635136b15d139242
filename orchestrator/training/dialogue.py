"""The shipped two-speaker recording: the corpus's dialogue in two voices, with its turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np
import soundfile

from orchestrator.training.augment import join
from orchestrator.training.corpus import DIALOGUE
from orchestrator.training.voices import SAMPLE_RATE_HZ, Voice, speak

VOICES: Final = {
    "anna": Voice("espeak-ng", "en-us+f2", 145, 55),
    "david": Voice("espeak-ng", "en-gb+m3", 140, 30),
}
_GAP_S: Final = 0.5
# Peaks at -15 dB, as in a recorded conversation; it also makes the file smaller.
_GAIN: Final = 0.25


def write_dialogue(folder: Path) -> Path:
    """Write ``dialogue.flac`` and ``dialogue.json`` (text, turns in seconds, voices) into ``folder``.

    Raises:
        MissingDependencyError: espeak-ng is not installed.
    """
    parts = [speak(text, VOICES[speaker]) for speaker, text in DIALOGUE]
    audio = join(parts, [_GAP_S] * (len(parts) + 1)) * np.float32(_GAIN)
    turns: list[dict[str, str | float]] = []
    rttm: list[str] = []
    now = _GAP_S
    for (speaker, text), part in zip(DIALOGUE, parts, strict=True):
        seconds = part.size / SAMPLE_RATE_HZ
        end = now + seconds
        rttm.append(f"SPEAKER dialogue 1 {now:.3f} {seconds:.3f} <NA> <NA> {speaker} <NA> <NA>")
        turns.append({"speaker": speaker, "start_s": round(now, 3), "end_s": round(end, 3), "text": text})
        now = end + _GAP_S
    record = {
        "audio": "dialogue.flac",
        "duration_s": round(audio.size / SAMPLE_RATE_HZ, 3),
        "text": " ".join(text for _, text in DIALOGUE),
        "voices": {speaker: f"{voice.program} {voice.name}" for speaker, voice in VOICES.items()},
        "turns": turns,
        "rttm": rttm,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dialogue.flac"
    soundfile.write(path, audio, SAMPLE_RATE_HZ, subtype="PCM_16", compression_level=1.0)
    (folder / "dialogue.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path
