"""How clean utterances become recordings: silences, gain, noise, a telephone line, a room. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import soxr
from numpy.typing import NDArray

from orchestrator.training.voices import SAMPLE_RATE_HZ, Samples

TELEPHONE_RATE_HZ: Final = 8_000
_MU: Final = 255.0


@dataclass(frozen=True, slots=True)
class Conditions:
    """Chances (0..1) and ranges of what may happen to a recording."""

    edge_s: tuple[float, float] = (0.0, 1.2)
    gap_s: tuple[float, float] = (0.08, 1.5)
    gain: tuple[float, float] = (0.05, 1.3)
    noise: float = 0.6
    snr_db: tuple[float, float] = (8.0, 40.0)
    telephone: float = 0.15
    room: float = 0.15


def between(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """A number drawn evenly between the two limits."""
    return float(rng.uniform(*limits))


def silence(seconds: float) -> Samples:
    """Digital silence."""
    return np.zeros(int(seconds * SAMPLE_RATE_HZ), dtype=np.float32)


def join(parts: Sequence[Samples], gaps_s: Sequence[float]) -> Samples:
    """``parts`` one after another with ``gaps_s`` seconds before, between and after (one more than parts)."""
    pieces = [silence(gaps_s[0])]
    for part, gap in zip(parts, gaps_s[1:], strict=True):
        pieces += [part, silence(gap)]
    return np.concatenate(pieces)


def _fft_length(size: int) -> int:
    # A transform of prime length takes ten times as long.
    return 1 << max(0, size - 1).bit_length()


def colored_noise(rng: np.random.Generator, size: int, exponent: float) -> Samples:
    """Noise with power falling as ``1/f**exponent`` (0 white, 1 pink, 2 brown), unit variance."""
    if size == 0:
        return np.zeros(0, dtype=np.float32)
    length = _fft_length(size)
    spectrum = np.fft.rfft(rng.standard_normal(length, dtype=np.float32))
    frequency = np.maximum(np.arange(spectrum.size, dtype=np.float32), 1.0)
    noise = np.fft.irfft(spectrum * frequency ** np.float32(-exponent / 2), length)[:size]
    return np.asarray(noise / max(float(noise.std()), 1e-9), dtype=np.float32)


def add_noise(audio: Samples, noise: Samples, snr_db: float) -> Samples:
    """``audio`` plus ``noise`` (same length) scaled to ``snr_db`` below the power of the louder parts."""
    loud = np.abs(audio) > 0.02 * np.abs(audio).max(initial=0.0)
    power = float(np.mean(audio[loud] ** 2)) if loud.any() else 1e-4
    level = np.sqrt(power / 10 ** (snr_db / 10) / max(float(np.mean(noise**2)), 1e-12))
    return np.asarray(audio + level * noise, dtype=np.float32)


def telephone(audio: Samples) -> Samples:
    """``audio`` through an 8 kHz mu-law line (G.711) and back at 16 kHz."""
    narrow = np.clip(soxr.resample(audio, SAMPLE_RATE_HZ, TELEPHONE_RATE_HZ), -1.0, 1.0)
    code = np.round(np.sign(narrow) * np.log1p(_MU * np.abs(narrow)) / np.log1p(_MU) * 127) / 127
    heard = np.sign(code) * np.expm1(np.abs(code) * np.log1p(_MU)) / _MU
    wide = soxr.resample(heard, TELEPHONE_RATE_HZ, SAMPLE_RATE_HZ)
    return np.asarray(np.resize(wide, audio.shape), dtype=np.float32)


def room(audio: Samples, rng: np.random.Generator) -> Samples:
    """``audio`` with a short synthetic reverberation (decay to -60 dB in 0.1-0.4 s)."""
    rt60_s = rng.uniform(0.1, 0.4)
    time_s = np.arange(int(rt60_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    response: NDArray[np.float64] = rng.standard_normal(time_s.size) * 10 ** (-3 * time_s / rt60_s)
    response *= rng.uniform(0.1, 0.5) / np.sqrt(np.sum(response**2))
    response[0] = 1.0
    size = _fft_length(audio.size + response.size - 1)
    spectrum = np.fft.rfft(audio, size) * np.fft.rfft(response.astype(np.float32), size)
    return np.asarray(np.fft.irfft(spectrum, size)[: audio.size], dtype=np.float32)


def compose(
    parts: Sequence[Samples], conditions: Conditions, rng: np.random.Generator
) -> tuple[Samples, list[int]]:
    """One recording out of ``parts`` (none: a recording without speech), within full scale.

    Returns the recording and where in it, in samples, each part starts.
    """
    levels = [part * np.float32(rng.uniform(0.6, 1.0)) for part in parts]
    gaps = [between(rng, conditions.gap_s) for _ in range(len(parts) + 1)]
    gaps[0], gaps[-1] = between(rng, conditions.edge_s), between(rng, conditions.edge_s)
    starts, now = [], 0
    for part, gap in zip(levels, gaps, strict=False):
        starts.append(now + int(gap * SAMPLE_RATE_HZ))
        now = starts[-1] + part.size
    audio = join(levels, gaps) if parts else silence(rng.uniform(0.5, 4.0))
    if rng.random() < conditions.room:
        audio = room(audio, rng)
    if rng.random() < conditions.noise:
        noise = colored_noise(rng, audio.size, rng.uniform(0.0, 2.0))
        audio = add_noise(audio, noise, between(rng, conditions.snr_db))
    audio = audio * np.float32(between(rng, conditions.gain))
    if rng.random() < conditions.telephone:
        audio = telephone(audio)
    return np.clip(audio, -1.0, 1.0).astype(np.float32), starts
