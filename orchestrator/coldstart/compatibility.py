"""Which GPU code runs where: pure rules, one entry and one module at a time.

Rules (CUDA Programming Guide, "Compute Capabilities" and "CUDA Environment Variables"; NVCC manual, "GPU
Compilation"):

- Machine code runs on GPUs of the same major and the same or a higher minor: sm_120 code on sm_121.
- PTX is compiled by the driver ("JIT") for any GPU of the same or a higher capability.
- With ``a`` both are for exactly that GPU; with ``f`` for GPUs of the same family from that one on.
- The driver picks machine code before PTX, and looks at the real GPU: what a program is told the GPU is, or
  what it tells others, changes nothing.
- PTX newer than the driver's compiler, and machine code in a format newer than the runtime or the driver,
  are refused.
- ``CUDA_FORCE_PTX_JIT=1`` ignores machine code, ``CUDA_DISABLE_PTX_JIT=1`` ignores PTX; ``CUDA_FORCE_JIT``
  and ``CUDA_DISABLE_JIT`` likewise, where the former two are not set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from orchestrator.coldstart.cuda_versions import (
    cuda_of_driver,
    cuda_of_gpu,
    cuda_of_machine_code,
    cuda_of_ptx,
)
from orchestrator.coldstart.fatbin import Entry, Kind
from orchestrator.coldstart.gpu_target import GpuTarget, Variant, Version

_FAMILIES: Final[tuple[frozenset[Version], ...]] = (
    frozenset({(10, 0), (10, 3)}),
    frozenset({(10, 1), (11, 0)}),  # CUDA 13 gave 10.1 its new name 11.0
    frozenset({(12, 0), (12, 1)}),
)
"""GPUs that share what ``f`` targets use; any other family is taken to be all of a major."""


class Outcome(StrEnum):
    """What becomes of a piece of GPU code."""

    NATIVE = "native"
    """Runs as it is."""
    JIT = "jit"
    """The driver compiles it first."""
    FAILS = "fails"
    """Does not run."""


class Cause(StrEnum):
    """Why an entry does or does not run."""

    MATCHES = "matches"
    OTHER_GPU = "other-gpu"
    """Machine code for another major, or for a higher minor."""
    NEWER_PTX_TARGET = "newer-ptx-target"
    EXACT_GPU_ONLY = "exact-gpu-only"
    OTHER_FAMILY = "other-family"
    BITS = "bits"
    FORMAT_OF_RUNTIME = "format-of-runtime"
    """Machine code in a newer format than the CUDA runtime knows."""
    FORMAT_OF_DRIVER = "format-of-driver"
    PTX_OF_DRIVER = "ptx-of-driver"
    """PTX of a newer version than the driver compiles."""
    FORCED_JIT = "forced-jit"
    """Machine code that would run but is ignored."""
    DISABLED_JIT = "disabled-jit"
    """PTX that would be compiled but is not."""
    UNKNOWN_KIND = "unknown-kind"


@dataclass(frozen=True, slots=True)
class JitPolicy:
    """What a process's environment says about compiling PTX.

    Attributes:
        forced: machine code is ignored.
        disabled: PTX is ignored.
        cached: what was compiled is kept for the next start.
        cache_path: where, None for the default below the user's home.
        eager: all modules are loaded when the program starts, not when first used.
    """

    forced: bool = False
    disabled: bool = False
    cached: bool = True
    cache_path: str | None = None
    eager: bool = False

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> JitPolicy:
        """From environment variables."""
        forced = _switch(environment, "CUDA_FORCE_PTX_JIT", "CUDA_FORCE_JIT")
        return cls(
            forced=forced,
            disabled=_switch(environment, "CUDA_DISABLE_PTX_JIT", "CUDA_DISABLE_JIT"),
            # Measured: a forced compilation neither reads nor spares itself the cache.
            cached=not forced and not _on(environment.get("CUDA_CACHE_DISABLE", "")),
            cache_path=environment.get("CUDA_CACHE_PATH") or None,
            eager=environment.get("CUDA_MODULE_LOADING", "").upper() == "EAGER",
        )


def _switch(environment: Mapping[str, str], first: str, second: str) -> bool:
    return _on(environment[first] if environment.get(first) else environment.get(second, ""))


def _on(value: str) -> bool:
    return value.strip().lower() not in ("", "0")


@dataclass(frozen=True, slots=True)
class Platform:
    """Where code is to run.

    Attributes:
        gpu: the GPU's capability.
        driver: the driver's version, None if not known: then it is taken to be new enough.
        runtime: the CUDA runtime that loads the code, None if not known: then likewise.
        jit: what the environment says.
    """

    gpu: GpuTarget
    driver: Version | None = None
    runtime: Version | None = None
    jit: JitPolicy = field(default_factory=JitPolicy)

    def gpu_is_too_new(self) -> bool:
        """Whether the driver does not know the GPU at all, so that nothing runs."""
        first = cuda_of_gpu(self.gpu.capability)
        return self.driver is not None and first is not None and cuda_of_driver(self.driver) < first


@dataclass(frozen=True, slots=True)
class Fit:
    """What becomes of one entry, and why."""

    entry: Entry
    outcome: Outcome
    cause: Cause


def fit(entry: Entry, platform: Platform) -> Fit:
    """Judge one entry by itself."""
    if entry.bits != 64:
        return Fit(entry, Outcome.FAILS, Cause.BITS)
    if entry.kind is Kind.OTHER:
        return Fit(entry, Outcome.FAILS, Cause.UNKNOWN_KIND)
    cause = _cubin_cause(entry, platform) if entry.kind is Kind.CUBIN else _ptx_cause(entry, platform)
    if cause is not Cause.MATCHES:
        return Fit(entry, Outcome.FAILS, cause)
    return Fit(entry, Outcome.NATIVE if entry.kind is Kind.CUBIN else Outcome.JIT, cause)


def _cubin_cause(entry: Entry, platform: Platform) -> Cause:
    matched = _target_cause(entry.target, platform.gpu, same_major=True)
    if matched is not Cause.MATCHES:
        return matched
    needed = cuda_of_machine_code(entry.version)
    if _older(platform.runtime, needed):
        return Cause.FORMAT_OF_RUNTIME
    if platform.driver is not None and _older(cuda_of_driver(platform.driver), needed):
        return Cause.FORMAT_OF_DRIVER
    return Cause.FORCED_JIT if platform.jit.forced else Cause.MATCHES


def _ptx_cause(entry: Entry, platform: Platform) -> Cause:
    """For PTX, and for intermediate code, which the driver links and compiles under the same rules."""
    matched = _target_cause(entry.target, platform.gpu, same_major=False)
    if matched is not Cause.MATCHES:
        return matched
    if (
        entry.kind is Kind.PTX
        and platform.driver is not None
        and _older(cuda_of_driver(platform.driver), cuda_of_ptx(entry.version))
    ):
        return Cause.PTX_OF_DRIVER
    return Cause.DISABLED_JIT if platform.jit.disabled else Cause.MATCHES


def _target_cause(code: GpuTarget, gpu: GpuTarget, *, same_major: bool) -> Cause:
    if code.variant is Variant.EXACT:
        return Cause.MATCHES if code.capability == gpu.capability else Cause.EXACT_GPU_ONLY
    if code.variant is Variant.FAMILY:
        related = gpu.capability in family(code.capability) and code.capability <= gpu.capability
        return Cause.MATCHES if related else Cause.OTHER_FAMILY
    if same_major:
        runs = code.major == gpu.major and code.minor <= gpu.minor
        return Cause.MATCHES if runs else Cause.OTHER_GPU
    return Cause.MATCHES if code.capability <= gpu.capability else Cause.NEWER_PTX_TARGET


def family(capability: Version) -> frozenset[Version]:
    """The GPUs that share family-specific features with one, itself included."""
    for members in _FAMILIES:
        if capability in members:
            return members
    return frozenset((capability[0], minor) for minor in range(10))


def _older(given: Version | None, needed: Version | None) -> bool:
    """Whether a known version is too old; a need that no table knows is newer than all."""
    return given is not None and (needed is None or given < needed)


def best_fit(entries: Sequence[Entry], platform: Platform) -> Fit | None:
    """What the driver uses of one module's entries; None of no entries.

    Machine code comes before what must be compiled; of several, the nearest target. Where none runs, the
    entry that says most about why: one that fits the GPU and is refused for another reason.
    """
    fits = [fit(entry, platform) for entry in entries]
    return max(fits, key=_preference, default=None)


_OUTCOMES: Final = {Outcome.FAILS: 0, Outcome.JIT: 1, Outcome.NATIVE: 2}
_NEAR: Final = frozenset(
    {
        Cause.FORMAT_OF_RUNTIME,
        Cause.FORMAT_OF_DRIVER,
        Cause.PTX_OF_DRIVER,
        Cause.FORCED_JIT,
        Cause.DISABLED_JIT,
    }
)
_VARIANTS: Final = {Variant.PORTABLE: 0, Variant.FAMILY: 1, Variant.EXACT: 2}


def _preference(found: Fit) -> tuple[int, bool, bool, Version, int]:
    entry = found.entry
    return (
        _OUTCOMES[found.outcome],
        found.cause in _NEAR,
        entry.kind is Kind.CUBIN,
        entry.target.capability,
        _VARIANTS[entry.target.variant],
    )
