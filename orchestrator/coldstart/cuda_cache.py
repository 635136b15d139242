"""Where a server keeps compiled GPU code between starts, and the switches that must not undo it.

A kernel that ships only as PTX is compiled by the driver on first use. The driver keeps the result in a cache
of its own, 1 GiB by default and below the user's home, so a container forgets it and a large model overflows
it. ``CUDA_FORCE_PTX_JIT=1`` ignores that cache and the machine code shipped in the binary: with it a start
that takes 0.02 s from a warm cache takes as long as without one, and a binary without PTX does not start.
Source: CUDA C++ Programming Guide, "CUDA Environment Variables"; figures: an H200 with 150 PTX-only kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

MAX_CACHE_BYTES: Final = 4 * 1024**3
"""The largest value the driver takes for CUDA_CACHE_MAXSIZE."""
MIN_CACHE_BYTES: Final = 2 * 1024**3
"""What a server with several models needs at least."""


def cuda_environment(cache_dir: Path) -> dict[str, str]:
    """The variables that every server is started with; all caches lie below ``cache_dir``."""
    return {
        "CUDA_FORCE_PTX_JIT": "0",
        "CUDA_CACHE_DISABLE": "0",
        "CUDA_CACHE_PATH": str(cache_dir / "cuda"),
        "CUDA_CACHE_MAXSIZE": str(MAX_CACHE_BYTES),
        "TORCHINDUCTOR_CACHE_DIR": str(cache_dir / "inductor"),
        "TRITON_CACHE_DIR": str(cache_dir / "triton-compiler"),
    }


def policy_violations(environment: Mapping[str, str]) -> list[str]:
    """What in a process's environment breaks the policy, one sentence each; empty when nothing does."""
    found = []
    if environment.get("CUDA_FORCE_PTX_JIT", "0") != "0":
        found.append(
            "CUDA_FORCE_PTX_JIT is on: shipped machine code and the cache are ignored at every start"
        )
    if environment.get("CUDA_CACHE_DISABLE", "0") != "0":
        found.append("CUDA_CACHE_DISABLE is on: kernels are compiled anew at every start")
    if not environment.get("CUDA_CACHE_PATH"):
        found.append("CUDA_CACHE_PATH is not set: a container forgets the cache")
    size = environment.get("CUDA_CACHE_MAXSIZE", "")
    if not size.isdigit() or int(size) < MIN_CACHE_BYTES:
        found.append(
            f"CUDA_CACHE_MAXSIZE is {size or 'not set'}: at least {MIN_CACHE_BYTES} bytes are needed"
        )
    found += [
        f"{name} is not set: compiled models are not kept"
        for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
        if not environment.get(name)
    ]
    return found
