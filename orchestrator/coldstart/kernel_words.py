"""Verdicts on GPU code in words: what happens, why, and what helps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from orchestrator.coldstart.compatibility import Cause, Fit, JitPolicy, Outcome, Platform
from orchestrator.coldstart.cuda_versions import (
    cuda_of_driver,
    cuda_of_gpu,
    cuda_of_machine_code,
    cuda_of_ptx,
    driver_of_cuda,
)
from orchestrator.coldstart.fatbin import Entry, Kind
from orchestrator.coldstart.gpu_target import UNKNOWN_MINOR, GpuTarget, Version, shown_version
from orchestrator.coldstart.jit_cost import jit_seconds, shown_seconds

NOT_FORCED: Final = "set CUDA_FORCE_PTX_JIT=0 (and CUDA_FORCE_JIT=0)"
KEPT: Final = "set CUDA_CACHE_PATH to a folder that outlives the container, and CUDA_CACHE_MAXSIZE=4294967296"

_PREFIX: Final = {Kind.PTX: "compute_", Kind.LTO_IR: "lto_", Kind.CUBIN: "sm_", Kind.OTHER: "sm_"}
_NAMES: Final = {
    Kind.CUBIN: "machine code",
    Kind.PTX: "PTX",
    Kind.LTO_IR: "code for link-time optimisation",
    Kind.OTHER: "code of an unknown kind",
}


def words(
    platform: Platform,
    outcome: Outcome | None,
    own: Sequence[Fit],
    embedded: Sequence[Fit],
    jit_bytes: int,
    *,
    related: bool,
    unlinked: bool,
) -> tuple[str, tuple[str, ...]]:
    """The verdict on a file, and what helps.

    Args:
        platform: what it was judged for.
        outcome: of the file.
        own: the modules that the program registers.
        embedded: those that it keeps as data.
        jit_bytes: of PTX to compile, before compression, for ``own``.
        related: there is machine code for the GPU's major, whether it runs or not.
        unlinked: ``own`` is what a device link should have made one of.
    """
    if outcome is None:
        return "no GPU code", ()
    parts: list[str] = []
    fixes: list[str] = []
    native = [found.entry for found in own if found.outcome is Outcome.NATIVE]
    compiled = [found.entry for found in own if found.outcome is Outcome.JIT]
    failed = [found for found in own if found.outcome is Outcome.FAILS]
    if native:
        parts.append(f"native: {_targets(native)} code runs on {platform.gpu}")
    if compiled:
        reason = "" if platform.jit.forced else _missing(platform.gpu, related=related, rest=bool(native))
        parts.append(_compiled(platform.jit, compiled, len(own), jit_bytes, reason))
        fixes += _help_to_keep(platform)
    if failed and (native or compiled):
        parts.append(f"{len(failed)} of {len(own)} modules hold nothing for {platform.gpu}")
    if embedded:
        parts.append(_data(embedded, platform.gpu))
    if outcome is Outcome.FAILS:
        said, helps = _failed(platform, failed or list(embedded))
        parts.insert(0, said)
        fixes += helps
    if unlinked:
        parts.append("all of it is input of a device link that was not made: the program must link it itself")
    return "; ".join(parts), tuple(fixes)


def _missing(gpu: GpuTarget, *, related: bool, rest: bool) -> str:
    what = f"no machine code that runs on {gpu}" if related else f"no sm_{gpu.major}x code"
    return f"{what}{' for the rest' if rest else ''}, "


def _compiled(policy: JitPolicy, compiled: Sequence[Entry], total: int, jit_bytes: int, reason: str) -> str:
    return (
        f"{reason}{_sources(compiled)} -> JIT {_when(policy)}, {shown_seconds(jit_seconds(jit_bytes))}"
        f" ({len(compiled)} of {total} modules, {_length(jit_bytes)})"
    )


def _length(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _when(policy: JitPolicy) -> str:
    if policy.forced:
        return "at every start, as CUDA_FORCE_PTX_JIT=1 ignores machine code and the cache"
    if not policy.cached:
        return "at every start, as CUDA_CACHE_DISABLE=1 keeps nothing"
    return "at the first start" if policy.eager else "at first use"


def _help_to_keep(platform: Platform) -> list[str]:
    policy = platform.jit
    fixes = []
    if policy.forced:
        fixes.append(NOT_FORCED)
    elif not policy.cached:
        fixes.append("set CUDA_CACHE_DISABLE=0")
    if policy.cache_path is None:
        fixes.append(KEPT)
    if not policy.forced:
        fixes.append(f"or {_build(platform.gpu)}")
    return fixes


def _data(embedded: Sequence[Fit], gpu: GpuTarget) -> str:
    counts = Counter(found.outcome for found in embedded)
    return (
        f"loads what it chooses of {len(embedded)} modules that it keeps as data:"
        f" {counts[Outcome.NATIVE]} run natively on {gpu}, {counts[Outcome.JIT]} are compiled first,"
        f" {counts[Outcome.FAILS]} are for other GPUs"
    )


def _failed(platform: Platform, failed: Sequence[Fit]) -> tuple[str, list[str]]:
    """What most of the modules fail of."""
    cause, _ = Counter(found.cause for found in failed).most_common(1)[0]
    entries = [found.entry for found in failed if found.cause is cause]
    gpu = platform.gpu
    fixes = [_build(gpu)]
    match cause:
        case Cause.OTHER_GPU:
            majors = sorted({entry.target.major for entry in entries})
            text = (
                f"{_sources(entries)} runs only on GPUs of the same major"
                f" ({', '.join(f'{major}.x' for major in majors)}) and the same or a higher minor,"
                " and there is no PTX that fits"
            )
        case Cause.EXACT_GPU_ONLY:
            text = f"{_sources(entries)} is for exactly that GPU (the letter a), and nothing else fits"
        case Cause.OTHER_FAMILY:
            text = f"{_sources(entries)} is for GPUs of that family, from that one on (the letter f)"
        case Cause.NEWER_PTX_TARGET:
            text = f"{_sources(entries)} is for newer GPUs"
        case Cause.FORMAT_OF_RUNTIME:
            needed = cuda_of_machine_code(_newest(entries))
            text = f"{_format(entries)}, which the CUDA {_runtime(platform)} runtime refuses"
            fixes = [
                f"run it with a CUDA {_shown(needed)} runtime, or compile it with the runtime's own toolkit"
                f" ({_toolkit(platform)})"
            ]
        case Cause.FORMAT_OF_DRIVER:
            text = f"{_format(entries)}, which driver {_driver(platform)} refuses"
            fixes = [_newer_driver(cuda_of_machine_code(_newest(entries)))]
        case Cause.PTX_OF_DRIVER:
            version = shown_version(_newest(entries))
            text = f"its PTX is of version {version}, newer than driver {_driver(platform)} compiles"
            fixes = [_newer_driver(cuda_of_ptx(_newest(entries)))]
        case Cause.FORCED_JIT:
            text = f"{_sources(entries)} would run, but CUDA_FORCE_PTX_JIT=1 ignores it and there is no PTX"
            fixes = [NOT_FORCED]
        case Cause.DISABLED_JIT:
            text = f"there is only {_sources(entries)}, which CUDA_DISABLE_PTX_JIT=1 forbids to compile"
            fixes = ["set CUDA_DISABLE_PTX_JIT=0 (and CUDA_DISABLE_JIT=0)", f"or {_build(gpu)}"]
        case Cause.BITS:
            text = "its GPU code is for 32-bit programs"
        case Cause.UNKNOWN_KIND | Cause.MATCHES:
            text, fixes = f"{_sources(entries)} is of a kind that this audit does not know", []
    return f"no code that runs on {gpu}: {text}", fixes


def _format(entries: Sequence[Entry]) -> str:
    version = _newest(entries)
    return (
        f"{_sources(entries)} is there, but its fat-binary version {shown_version(version)}"
        f" is that of CUDA {_shown(cuda_of_machine_code(version))}"
    )


def _newest(entries: Sequence[Entry]) -> Version:
    return max(entry.version for entry in entries)


def _shown(version: Version | None) -> str:
    return "releases newer than this audit" if version is None else shown_version(version)


def _runtime(platform: Platform) -> str:
    if platform.runtime is None:
        return "?"
    major, minor = platform.runtime
    return f"{major}.x" if minor == UNKNOWN_MINOR else f"{major}.{minor}"


def _toolkit(platform: Platform) -> str:
    """Which target the runtime's own compiler can compile for."""
    first = cuda_of_gpu(platform.gpu.capability)
    runtime = platform.runtime
    name = f"CUDA {_runtime(platform)}"
    if runtime is not None and first is not None and runtime < first:
        return f"{name}, which does not know {platform.gpu}: for {_portable(platform.gpu)}"
    return f"{name}, for {_portable(platform.gpu)}"


def _driver(platform: Platform) -> str:
    if platform.driver is None:
        return "?"
    return f"{platform.driver[0]} (CUDA {shown_version(cuda_of_driver(platform.driver))})"


def _newer_driver(cuda: Version | None) -> str:
    branch = None if cuda is None else driver_of_cuda(cuda)
    return "use a newer driver" if branch is None else f"use driver {branch} or newer"


def _portable(gpu: GpuTarget) -> str:
    """The target to compile for: sm_120 serves the whole 12.x family, and older toolkits know it."""
    return "sm_120" if gpu.capability == (12, 1) else f"sm_{gpu.major}{gpu.minor}"


def _build(gpu: GpuTarget) -> str:
    number = _portable(gpu).removeprefix("sm_")
    return f"compile it for {_portable(gpu)} (CMAKE_CUDA_ARCHITECTURES={number})"


def entry_target(entry: Entry) -> str:
    """``sm_120``, ``compute_86``, ``lto_120f``."""
    return f"{_PREFIX[entry.kind]}{entry.target.number}"


def by_target(entry: Entry) -> tuple[int, int, str]:
    """A key that sorts entries by their targets."""
    return entry.target.major, entry.target.minor, entry.target.variant


def _targets(entries: Iterable[Entry]) -> str:
    return ", ".join(dict.fromkeys(entry_target(entry) for entry in sorted(entries, key=by_target)))


def _sources(entries: Sequence[Entry]) -> str:
    said = []
    for kind, name in _NAMES.items():
        of_kind = [entry for entry in entries if entry.kind is kind]
        if of_kind:
            said.append(f"{_targets(of_kind)} {name}")
    return " and ".join(said)
