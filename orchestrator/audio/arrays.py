"""Arrays as recordings: which shapes and types are taken, and how integers are scaled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.audio.models import MAX_CHANNELS
from orchestrator.errors import AudioEmptyError, AudioValueError


def from_array(data: NDArray[Any]) -> NDArray[np.float32]:
    """``data`` as float32 ``[channels, n]``, full scale +-1.

    Takes ``[n]`` or ``[channels, n]``; floats as they are, int16 and int32 over their full scale, int8 and
    uint8 (centred at 128) likewise.

    Raises:
        AudioValueError: another type or shape.
        AudioEmptyError: no samples.
    """
    if data.ndim not in (1, 2):
        raise AudioValueError(
            f"The given array has {data.ndim} dimensions.", fix="pass samples [n] or [channels, n]."
        )
    if data.size == 0:
        raise AudioEmptyError("The given array holds no samples.", fix="check how it was read.")
    planes = np.atleast_2d(data)
    if planes.shape[0] > min(MAX_CHANNELS, max(planes.shape[1], 1)):
        raise AudioValueError(
            f"The given array's shape {data.shape} would be {planes.shape[0]} channels.",
            fix="pass [channels, n]: transpose it if its samples come first.",
        )
    if np.issubdtype(data.dtype, np.floating):
        with np.errstate(over="ignore"):  # what does not fit becomes infinite and is refused as that
            return planes.astype(np.float32)
    if data.dtype == np.uint8:
        return (planes.astype(np.float32) - 128.0) / 128.0
    if data.dtype in (np.int8, np.int16, np.int32):
        return (planes / -float(np.iinfo(data.dtype).min)).astype(np.float32)
    raise AudioValueError(
        f"The given array is of type {data.dtype}.", fix="pass float32 in +-1, int16, int32, int8 or uint8."
    )
