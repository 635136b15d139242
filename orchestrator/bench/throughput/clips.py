"""The audio that speed is measured on: recorded speech, or noise that moves like it."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Final

import numpy as np

import orchestrator
from orchestrator import audio
from orchestrator.client.codec import to_pcm16
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import Pcm16

_DISTINCT: Final = 16
"""Different clips of one length; a batch repeats them."""
_STEP: Final = 7919
"""Samples between the beginnings of clips: a prime, so that none begins like another."""


def material(*, noise: bool, seconds: float = 120.0) -> Pcm16:
    """What clips are cut from: the dialogue in this package, or noise for networks with random weights.

    Random weights find tokens in any sound, at the rate they were tuned for in noise; in recorded speech the
    rate may be another.
    """
    if noise:
        from orchestrator.bench.synthetic import speech_like

        return to_pcm16(speech_like(1, seconds)[0])
    packaged = Path(orchestrator.__file__).parent / "training" / "checkpoint" / "dialogue.flac"
    return to_pcm16(audio.decode(packaged).samples[0])


def clips(sound: Pcm16, seconds: float) -> list[Pcm16]:
    """Different pieces of ``sound``, each ``seconds`` long; it is repeated where it is shorter."""
    size = round(seconds * SAMPLE_RATE_HZ)
    return [np.resize(np.roll(sound, -_STEP * number), size) for number in range(_DISTINCT)]


def batch(pieces: list[Pcm16], size: int) -> list[Pcm16]:
    """``size`` of them, over and over."""
    return [pieces[number % len(pieces)] for number in range(size)]


def write_wav(path: Path, sound: Pcm16, seconds: float) -> None:
    """A 16-bit mono recording of ``seconds`` at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(np.resize(sound, round(seconds * SAMPLE_RATE_HZ)).astype("<i2").tobytes())
