"""Write 16 kHz samples: raw 16-bit PCM and WAV."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.errors import AudioError


def to_pcm16(samples: NDArray[np.float32]) -> bytes:
    """``samples`` (``[n]`` or ``[channels, n]``) as little-endian int16, interleaved, clipped at +-1."""
    scaled = np.clip(np.rint(np.atleast_2d(samples) * 32768.0), -32768, 32767)
    return np.ascontiguousarray(scaled.T).astype("<i2").tobytes()


def wav_bytes(samples: NDArray[np.float32], sample_rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """``samples`` (``[n]`` or ``[channels, n]``) as a 16-bit WAV file."""
    import soundfile

    planes = np.atleast_2d(samples)
    pcm = np.frombuffer(to_pcm16(planes), "<i2").reshape(-1, planes.shape[0])
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate_hz, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def write_wav(path: Path, samples: NDArray[np.float32], sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Write ``samples`` (``[n]`` or ``[channels, n]``) as 16-bit WAV; ``path`` is whole or not there.

    Raises:
        AudioError: the file cannot be written.
    """
    data = wav_bytes(samples, sample_rate_hz)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise AudioError(
            f"{path} cannot be written: {error.strerror or error}.",
            fix="check that the folder exists, may be written and has space.",
            path=path,
        ) from error
