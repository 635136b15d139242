"""The checks of a machine: pure over what a `Probe` answers.

Memory is the kernel's ``MemAvailable`` and never what the GPU's driver says: on unified memory (GB10) the
driver cannot tell, and running out can freeze the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from orchestrator.deploy.host import readings
from orchestrator.deploy.host.probe import Probe
from orchestrator.deploy.host.requirements import FAIL, OK, WARN, Check, Findings, Request

PYTHONS: Final = ("3.11", "3.12")
"""What every pinned package has wheels for."""
MIN_DRIVER: Final = (580,)
"""The first driver of CUDA 13, which torch and the server's image are built for."""
MIN_CAPABILITY: Final = (7, 5)
"""The oldest GPUs that CUDA 13 has machine code for."""
_GIB: Final = 1024**3
_MIB: Final = 1024**2
_UNITS: Final = "spark-speech-"
"""How the names of this project's systemd units begin."""


def check_programs(request: Request, probe: Probe) -> Check:
    """The programs that a deployment runs."""
    missing = [name for name in request.programs if not probe.has(name)]
    if missing and request.installable:
        return Check("programs", OK, f"will be installed: {', '.join(missing)}")
    if missing:
        named = " ".join(missing)
        return Check("programs", FAIL, f"not installed: {', '.join(missing)}", f"apt-get install {named}")
    return Check("programs", OK, "everything needed is installed")


def check_machine(request: Request, probe: Probe) -> Check:
    """The processor."""
    if request.target and request.target != probe.machine:
        return Check(
            "machine",
            FAIL,
            f"the release is for {request.target}, this host is {probe.machine}",
            "build a release for it: spark-speech build on such a machine",
        )
    return Check("machine", OK, probe.machine)


def check_disk(request: Request, probe: Probe) -> Check:
    """Free space below the home."""
    home = Path(request.home)
    folder = next(path for path in (home, *home.parents) if path.exists())
    free = probe.free_bytes(folder)
    needed = sum(int(need["bytes"]) for need in request.needs if not Path(need["path"]).exists())
    if free < needed:
        return Check(
            "disk",
            FAIL,
            f"{_gib(free)} are free at {folder}, {_gib(needed)} are needed",
            "free some space, or put spark_speech_home on another disk",
        )
    return Check("disk", OK, f"{_gib(free)} are free at {folder}")


def check_memory(request: Request, memory: Mapping[str, int]) -> Check:
    """The kernel's MemAvailable, against what must stay free."""
    available = memory.get("MemAvailable")
    if available is None:
        return Check("memory", WARN, "the kernel does not say how much memory is available")
    if available < request.memory_floor_bytes:
        return Check(
            "memory",
            FAIL,
            f"{available // _MIB} MiB are available, {request.memory_floor_bytes // _MIB} MiB must stay so",
            "stop something on the host, or lower spark_speech_memory_floor_mib",
        )
    return Check("memory", OK, f"{available // _MIB} MiB are available")


def check_ports(request: Request, probe: Probe) -> Check:
    """The ports: free, or held by this project's own units."""
    held = readings.listening([probe.read("/proc/net/tcp"), probe.read("/proc/net/tcp6")])
    taken = {
        name: port
        for name, port in request.ports.items()
        if port in held and not _is_ours(probe.owner(held[port]), request)
    }
    if taken:
        named = ", ".join(f"{port} ({name})" for name, port in taken.items())
        return Check(
            "ports",
            FAIL,
            f"taken by another program: {named}",
            "stop that program (`ss -ltnp` names it), or change spark_speech_all_ports or "
            "spark_speech_front_ports",
        )
    return Check("ports", OK, f"{len(request.ports)} ports are free or this service's own")


def check_clock(request: Request, probe: Probe) -> Check:
    """The clock, against the controller's: locks and certificates go by it."""
    if request.controller_time is None:
        return Check("clock", OK, "not compared")
    skew = probe.now - request.controller_time
    if abs(skew) > request.max_skew_s:
        return Check(
            "clock",
            FAIL,
            f"the clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the controller's",
            "let both follow a time server: timedatectl set-ntp true",
        )
    return Check("clock", OK, "the clock agrees with the controller's")


def check_gpu(request: Request, found: Findings) -> Check:
    """The GPU, its driver and its compute capability; only a release for GPUs needs one."""
    if not found.gpus:
        if request.device == "cuda":
            return Check(
                "gpu",
                FAIL,
                "the release is for a GPU, and nvidia-smi shows none",
                "check the driver: run nvidia-smi; or build with build.device = cpu",
            )
        return Check("gpu", OK, "none: models run on the CPU")
    gpu = found.gpus[0]
    shown = f"{gpu.name}, capability {_dotted(gpu.capability)}, driver {_dotted(gpu.driver)}"
    if request.device == "cuda":
        if gpu.driver is not None and gpu.driver < MIN_DRIVER:
            return Check(
                "gpu", FAIL, f"{shown}: too old for CUDA 13", f"install driver {MIN_DRIVER[0]} or newer"
            )
        if gpu.capability is not None and gpu.capability < MIN_CAPABILITY:
            fix = "serve from a newer GPU, or build with build.device = cpu"
            return Check("gpu", FAIL, f"{shown}: CUDA 13 has no code for this GPU", fix)
    return Check("gpu", OK, shown)


def python_checks(request: Request, found: Findings) -> list[Check]:
    """What a runtime without containers needs: an interpreter, and the library that Triton embeds."""
    if request.environment_source:
        return []
    if found.python not in PYTHONS:
        return [
            Check(
                "python",
                FAIL,
                f"{request.python} is {'Python ' + found.python if found.python else 'not there'}",
                f"install Python {' or '.join(PYTHONS)} and name it in spark_speech_python",
            )
        ]
    if not found.libpython:
        return [
            Check(
                "python",
                FAIL,
                f"libpython{found.python} is missing: Triton's Python backend cannot start without it",
                f"apt-get install libpython{found.python}",
            )
        ]
    return [Check("python", OK, f"Python {found.python} with {found.libpython}")]


def _is_ours(group: str, request: Request) -> bool:
    if _UNITS in group:
        return True
    # A container's processes live in its own group; the state file says that the service is installed here.
    container = "docker" in group or "containerd" in group
    return container and (Path(request.home) / "deploy" / "state.json").exists()


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"


def _dotted(parts: tuple[int, ...] | None) -> str:
    return "unknown" if parts is None else ".".join(map(str, parts))
