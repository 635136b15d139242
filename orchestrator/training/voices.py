"""Who says it: the synthetic voices, which of them are held out, and the programs that speak.

espeak-ng and flite are asked for training; festival only for held-out voices.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from orchestrator.errors import ArtifactError, MissingDependencyError

Samples = NDArray[np.float32]

SAMPLE_RATE_HZ: Final = 16_000
_TIMEOUT_S: Final = 30.0
_EDGE_S: Final = 0.03
_SILENCE: Final = 10 ** (-50 / 20)
_PEAK: Final = 0.7

_ACCENTS: Final = (
    "en-us", "en-us", "en-us", "en-gb", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc",
    "en-gb-x-gbclan", "en-029",
)  # fmt: skip
_VARIANTS: Final = (
    "", "m1", "m2", "m3", "m4", "m6", "m8", "f1", "f2", "f3", "f4", "Alex", "Alicia", "Andrea", "Annie",
    "Gene", "Hugo", "Jacky", "Lee", "Mario", "Michael", "Mike", "adam", "anika", "announcer", "antonio",
    "aunty", "benjamin", "boris", "caleb", "david", "ed", "edward", "grandma", "grandpa", "iven", "iven2",
    "john", "kaukovalta", "klatt", "klatt2", "linda", "marcelo", "max", "miguel", "norbert", "pablo", "paul",
    "quincy", "rob", "robert", "sandro", "shelby", "steph", "travis", "victor", "zac",
)  # fmt: skip
_FLITE: Final = ("slt", "rms", "kal16")

TRAINED_RATES: Final = (110, 200)
ORDINARY_RATES: Final = (110, 170)
"""Words a minute of espeak-ng: what is trained on, and what the headline figures are measured on."""

FAST_RATES: Final = (171, 200)


@dataclass(frozen=True, slots=True)
class Voice:
    """One way of speaking.

    Attributes:
        program: ``espeak-ng``, ``flite`` or ``festival``.
        name: the program's own name of the voice.
        rate: words a minute for espeak-ng (80..260), speed factor in percent for flite; unused by festival.
        pitch: 0..99 for espeak-ng, mean pitch in Hz (0: the voice's own) for flite; unused by festival.
        gap_ms: extra silence after each word, multiples of 10, espeak-ng only.
        size: vocal tract and tempo factor, 0.9..1.1: the recording is played that much faster.
    """

    program: str
    name: str
    rate: int = 150
    pitch: int = 50
    gap_ms: int = 0
    size: float = 1.0


HELD_OUT_ESPEAK: Final = (
    Voice("espeak-ng", "en-us+f5", 150, 50),
    Voice("espeak-ng", "en-gb+m7", 150, 45),
    Voice("espeak-ng", "en-us+Andy", 160, 50),
    Voice("espeak-ng", "en-gb+belinda", 145, 55),
    Voice("espeak-ng", "en-gb-x-gbcwmd+m5", 150, 50),
)
"""espeak-ng voices no training sentence is spoken with (one accent among them)."""

HELD_OUT_PROGRAMS: Final = (
    Voice("flite", "awb", 100, 0),
    Voice("festival", "ked_diphone"),
    Voice("festival", "cmu_us_slt_arctic_hts"),
)
"""Voices and synthesis methods no training sentence is spoken with (slt is heard through flite only)."""


def training_voice(
    rng: random.Random, *, flite: float = 0.3, rates: tuple[int, int] = TRAINED_RATES
) -> Voice:
    """A random training voice.

    Args:
        rng: what it is drawn from.
        flite: the share in 0..1 spoken by flite, the rest is espeak-ng's.
        rates: limits of espeak-ng's words a minute.
    """
    size = rng.choice((1.0, rng.uniform(0.92, 1.08)))
    if rng.random() < flite:
        pitch = rng.choice((0, rng.randint(80, 220)))
        return Voice("flite", rng.choice(_FLITE), rng.randint(80, 125), pitch, 0, size)
    variant = rng.choice(_VARIANTS)
    name = rng.choice(_ACCENTS) + (f"+{variant}" if variant else "")
    gap_ms = 0 if rng.random() < 0.75 else 10 * rng.randint(1, 25)
    return Voice("espeak-ng", name, rng.randint(*rates), rng.randint(15, 85), gap_ms, size)


def command(voice: Voice, text: str, out: Path) -> list[str]:
    """The command that speaks ``text`` into the WAV file ``out`` (festival reads the text from stdin)."""
    if voice.program == "espeak-ng":
        options = [
            "-v",
            voice.name,
            "-s",
            str(voice.rate),
            "-p",
            str(voice.pitch),
            "-g",
            str(voice.gap_ms // 10),
        ]
        return ["espeak-ng", *options, "-w", str(out), text]
    if voice.program == "flite":
        options = ["-voice", voice.name, "--setf", f"duration_stretch={100 / voice.rate:.3f}"]
        if voice.pitch:
            options += ["--setf", f"int_f0_target_mean={voice.pitch}"]
        return ["flite", *options, "-t", text, "-o", str(out)]
    return ["text2wave", "-eval", f"(voice_{voice.name})", "-o", str(out)]


def is_available(voice: Voice) -> bool:
    """Whether the program that speaks with ``voice`` is installed."""
    return shutil.which(command(voice, "", Path())[0]) is not None


def speak(text: str, voice: Voice) -> Samples:
    """``text`` spoken by ``voice``: mono, 16 kHz, peak 0.7, edges trimmed to 30 ms of silence.

    Raises:
        MissingDependencyError: the program is not installed.
        ArtifactError: it failed, or wrote no speech.
    """
    with tempfile.TemporaryDirectory(prefix="speak-") as folder:
        out = Path(folder) / "speech.wav"
        arguments = command(voice, text, out)
        try:
            subprocess.run(
                arguments, input=text.encode(), check=True, capture_output=True, timeout=_TIMEOUT_S
            )
            audio, rate = soundfile.read(out, dtype="float32")
        except FileNotFoundError as error:
            raise MissingDependencyError(
                f"the speech synthesiser {arguments[0]} is not installed",
                fix="apt-get install espeak-ng flite festival",
            ) from error
        except (subprocess.SubprocessError, soundfile.LibsndfileError) as error:
            raise ArtifactError(
                f"{arguments[0]} could not speak {text!r} as {voice.name}: {error}"
            ) from error
    audio = soxr.resample(audio, rate * voice.size, SAMPLE_RATE_HZ).astype(np.float32)
    speech = trim(audio)
    if not speech.size:
        raise ArtifactError(f"{arguments[0]} spoke only silence for {text!r} as {voice.name}")
    return np.asarray(speech * (_PEAK / float(np.abs(speech).max())), dtype=np.float32)


def trim(audio: Samples) -> Samples:
    """``audio`` without silence (50 dB below the peak) at its edges, but for 30 ms; empty if silent."""
    if not audio.size or not np.abs(audio).max() > 0:
        return audio[:0]
    loud = np.flatnonzero(np.abs(audio) > _SILENCE * np.abs(audio).max())
    edge = int(_EDGE_S * SAMPLE_RATE_HZ)
    return audio[max(0, int(loud[0]) - edge) : int(loud[-1]) + 1 + edge]
