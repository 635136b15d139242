"""Mel filters, as speech models were trained with."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from orchestrator.contract import SAMPLE_RATE_HZ


def mel_filters(mels: int, fft: int) -> NDArray[np.float32]:
    """``[mels, fft // 2 + 1]``: triangles on Slaney's mel scale up to 8 kHz, each of area one.

    M. Slaney, Auditory Toolbox, 1998: linear up to 1 kHz at 200/3 Hz a mel, above it logarithmic at 27 mels
    for a factor of 6.4.
    """
    top_hz, knee_hz, hz_per_mel, log_step = SAMPLE_RATE_HZ / 2, 1000.0, 200 / 3, math.log(6.4) / 27
    knee = knee_hz / hz_per_mel
    top = knee + math.log(top_hz / knee_hz) / log_step
    points = np.linspace(0.0, top, mels + 2)
    hz = np.where(points < knee, points * hz_per_mel, knee_hz * np.exp((points - knee) * log_step))
    bins = np.linspace(0.0, top_hz, fft // 2 + 1)
    low, middle, high = (edge[:, None] for edge in (hz[:-2], hz[1:-1], hz[2:]))
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    triangles = np.maximum(0.0, np.minimum(rising, falling)) * 2 / (high - low)
    filters: NDArray[np.float32] = triangles.astype(np.float32)
    return filters
