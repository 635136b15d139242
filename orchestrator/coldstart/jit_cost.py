"""How long the driver will compile, roughly.

Measured: the 34 modules of CTranslate2 4.8 (13.0 MB of PTX, 540 kernels) took the compiler of CUDA 13.0
(`ptxas -arch=sm_121`, which the driver's compiler shares its code with) 15.9 s on one core of a Xeon server:
1.2 s for each MB. Single modules lie between 0.1 and 4.7 s/MB, so a library's estimate is good to about a
factor of three.
"""

from __future__ import annotations

from typing import Final

SECONDS_PER_MB: Final = 1.2
"""Of PTX, 10^6 bytes, before compression."""


def jit_seconds(ptx_bytes: int) -> float:
    """Rough time to compile PTX once, on one core."""
    return SECONDS_PER_MB * ptx_bytes / 1e6


def shown_seconds(seconds: float) -> str:
    """As few digits as the estimate deserves: ``about 16 s``, ``about 4 min``, ``under 1 s``."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 99.5:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min"
