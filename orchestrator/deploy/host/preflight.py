"""Is this host fit for a deployment? A list of checks, each with what to do about it; changes nothing.

What the checks need to know comes from a `Probe`, so that a machine that is not at hand is a handful of
recorded texts. Memory is the kernel's ``MemAvailable`` and never what the GPU's driver says: on unified
memory (GB10) the driver cannot tell, and running out can freeze the machine.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from orchestrator.deploy.host import readings
from orchestrator.deploy.host.fingerprint import fingerprint
from orchestrator.errors import ConfigurationError, RepositoryError

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"
PYTHONS: Final = ("3.11", "3.12")
"""What every pinned package has wheels for."""
MIN_DRIVER: Final = (580,)
"""The first driver of CUDA 13, which torch and the server's image are built for."""
MIN_CAPABILITY: Final = (7, 5)
"""The oldest GPUs that CUDA 13 has machine code for."""
PTXAS: Final = "/usr/local/cuda/bin/ptxas"
"""The assembler of the CUDA toolkit, where it is installed: newer than the one in packages."""
HOOK: Final = "nvidia-container-runtime-hook"
"""The program of NVIDIA's container toolkit that Docker calls for ``--gpus``."""
_GIB: Final = 1024**3
_MIB: Final = 1024**2
_UNITS: Final = "spark-speech-"
"""How the names of this project's systemd units begin."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a deployment needs of a host; all of it optional.

    Attributes:
        home: the deployment's folder.
        runtime: ``auto``, ``container`` or ``systemd``.
        target: the processor that the release is for.
        device: ``cpu`` or ``cuda``.
        needs: what will be written: bytes by the path that is there once it has been written.
        memory_floor_bytes: what must stay available for everything else.
        ports: every port that will be listened on, by a name for messages.
        controller_time: the controller's clock, in seconds since 1970.
        max_skew_s: how far the two clocks may differ.
        programs: what must be on PATH.
        installable: whether programs that are missing will be installed.
        python: the interpreter that environments are built with.
        environment_source: a ready environment on the host.
        image: the container image that will run.
        program: where the host program is installed.
        image_buildable: True when the image is built or loaded here, so that it need not be there yet.
    """

    home: str = "/var/lib/spark-speech"
    runtime: str = "auto"
    target: str = ""
    device: str = "cpu"
    needs: Sequence[Mapping[str, Any]] = ()
    memory_floor_bytes: int = 0
    ports: Mapping[str, int] = field(default_factory=dict)
    controller_time: float | None = None
    max_skew_s: float = 30.0
    programs: Sequence[str] = ()
    installable: bool = False
    python: str = "python3"
    environment_source: str = ""
    program: str = ""
    image: str = ""
    image_buildable: bool = True

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Request:
        """The request in a JSON object.

        Raises:
            ConfigurationError: it has a key that is not known.
        """
        unknown = set(given) - {known.name for known in fields(cls)}
        if unknown:
            raise ConfigurationError(f"the preflight request has unknown keys: {', '.join(sorted(unknown))}")
        return cls(**given)


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: ``ok``, ``warn`` or ``fail``, and what to do where it is not well."""

    name: str
    level: str
    message: str
    fix: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """The finding as JSON-ready data."""
        return {"name": self.name, "level": self.level, "message": self.message, "fix": self.fix}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program said; ``code`` is None when it is not there or did not end in time."""

    code: int | None
    out: str
    err: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """How the host is asked; tests put recorded answers in place."""

    run: Callable[[Sequence[str]], Answer]
    read: Callable[[str], str]
    """The text of a file, empty where there is none."""
    exists: Callable[[str], bool]
    free_bytes: Callable[[Path], int]
    has: Callable[[str], bool]
    """Whether a program is on PATH."""
    owner: Callable[[int], str]
    """The control group of the process that holds the socket with this inode, empty when it has none."""
    machine: str
    now: float


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found out while checking, for the roles that come after."""

    gpus: tuple[readings.Gpu, ...] = ()
    cuda: tuple[int, ...] | None = None
    docker: readings.Docker | None = None
    python: str = ""
    libpython: str = ""


def run(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check this host; ``{"changed": False, "ok": …, "checks": […], "facts": {…}}``.

    Raises:
        ConfigurationError: the request has a key that is not known.
    """
    return examine(Request.of(given), this_host())


def examine(request: Request, probe: Probe) -> dict[str, Any]:
    """Every check of the request, through the probe."""
    found = _find(request, probe)
    runtime = request.runtime
    if runtime == "auto":
        runtime = "container" if found.docker is not None else "systemd"
    memory = readings.meminfo(probe.read("/proc/meminfo"))
    checks = [
        check_programs(request, probe),
        check_machine(request, probe),
        check_disk(request, probe),
        check_memory(request, memory),
        check_ports(request, probe),
        check_clock(request, probe),
        check_gpu(request, found),
        *(
            container_checks(request, found, probe)
            if runtime == "container"
            else python_checks(request, found)
        ),
    ]
    digest = ""
    if runtime == "systemd" and request.environment_source:
        try:
            digest = fingerprint(Path(request.environment_source))
        except RepositoryError as error:
            checks.append(Check("environment", FAIL, str(error.message), error.fix))
    return {
        "changed": False,
        "ok": all(check.level != FAIL for check in checks),
        "checks": [check.to_dict() for check in checks],
        "facts": {
            "runtime": runtime,
            "machine": probe.machine,
            "python": found.python,
            "gpus": [gpu.to_dict() for gpu in found.gpus],
            "cuda": found.cuda,
            "docker": None if found.docker is None else found.docker.version,
            "docker_gpus": found.docker is not None and found.docker.gpus,
            "memory_available": memory.get("MemAvailable"),
            "memory_total": memory.get("MemTotal"),
            "environment_digest": digest,
            "ptxas": PTXAS if probe.exists(PTXAS) else "",
            "installed": bool(request.program) and probe.exists(request.program),
            "missing_programs": [name for name in request.programs if not probe.has(name)],
        },
    }


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


def container_checks(request: Request, found: Findings, probe: Probe) -> list[Check]:
    """What containers need: the daemon, GPUs inside them, and the image."""
    if found.docker is None:
        return [
            Check(
                "docker",
                FAIL,
                "the Docker daemon does not answer",
                "install and start Docker, or set spark_speech_runtime to systemd",
            )
        ]
    checks = [Check("docker", OK, f"Docker {found.docker.version}")]
    # `--gpus` needs the toolkit's hook alone; DGX OS does not always set up a runtime of that name.
    if request.device == "cuda" and not (found.docker.gpus or probe.has(HOOK)):
        checks.append(
            Check(
                "nvidia runtime",
                FAIL,
                f"Docker knows no NVIDIA runtime (it has: {', '.join(found.docker.runtimes)})",
                "install nvidia-container-toolkit, then: nvidia-ctk runtime configure --runtime=docker",
            )
        )
        return checks
    if not request.image:
        return checks
    there = probe.run(["docker", "image", "inspect", request.image]).code == 0
    checks.append(_image_check(request, probe, there=there))
    if there and request.device == "cuda":
        checks.append(_gpu_inside(request.image, probe))
    return checks


def _image_check(request: Request, probe: Probe, *, there: bool) -> Check:
    if there:
        return Check("image", OK, f"{request.image} is here")
    if request.image_buildable:
        return Check("image", OK, f"{request.image} will be built or loaded here")
    answer = probe.run(["docker", "manifest", "inspect", request.image])
    if answer.code == 0:
        return Check("image", OK, f"{request.image} can be pulled")
    said = answer.err.strip().splitlines()[-1:] or ["no answer"]
    denied = any(word in answer.err.lower() for word in ("unauthorized", "denied", "authentication"))
    return Check(
        "image",
        FAIL,
        f"{request.image} is not here and cannot be pulled: {said[0]}",
        "log in to the registry on the host: sudo docker login"
        if denied
        else "check the image's name and the network, or load it from a file",
    )


def _gpu_inside(image: str, probe: Probe) -> Check:
    answer = probe.run(
        ["docker", "run", "--rm", "--gpus=all", "--entrypoint=nvidia-smi", image, "--list-gpus"]
    )
    if answer.code == 0 and "GPU 0" in answer.out:
        return Check("gpu in container", OK, answer.out.strip().splitlines()[0])
    said = (answer.err or answer.out).strip().splitlines()[-1:] or ["no GPU is listed"]
    return Check(
        "gpu in container",
        FAIL,
        f"a container sees no GPU: {said[0]}",
        "restart Docker after: nvidia-ctk runtime configure --runtime=docker",
    )


def _find(request: Request, probe: Probe) -> Findings:
    query = probe.run(
        ["nvidia-smi", f"--query-gpu={','.join(readings.GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    )
    gpus = readings.gpus(query.out) if query.code == 0 else ()
    docker = None
    if request.runtime != "systemd":
        docker = readings.docker(probe.run(["docker", "info", "--format", "{{json .}}"]).out)
    python = probe.run([request.python, "-c", _PYTHON]).out.split()
    return Findings(
        gpus=gpus,
        cuda=readings.cuda_version(probe.run(["nvidia-smi"]).out) if gpus else None,
        docker=docker,
        python=python[0] if python else "",
        libpython=python[1] if len(python) > 1 else "",
    )


_PYTHON: Final = (
    "import os, sys, sysconfig; v = '%d.%d' % sys.version_info[:2]; n = f'libpython{v}.so.1.0'; "
    "m = sysconfig.get_config_var('MULTIARCH') or ''; "
    "f = [os.path.join(sys.base_prefix, 'lib'), sysconfig.get_config_var('LIBDIR') or '', '/usr/lib/' + m]; "
    "print(v, next((os.path.join(d, n) for d in f if os.path.exists(os.path.join(d, n))), ''))"
)
"""Prints the interpreter's version and its shared library, where there is one."""


def _is_ours(group: str, request: Request) -> bool:
    if _UNITS in group:
        return True
    # A container's processes live in its own group; the state file says that the service is installed here.
    container = "docker" in group or "containerd" in group
    return container and (Path(request.home) / "deploy" / "state.json").exists()


def this_host() -> Probe:
    """How the machine that this runs on is asked."""
    return Probe(
        run=_run,
        read=_read,
        exists=lambda path: Path(path).exists(),
        free_bytes=lambda folder: shutil.disk_usage(folder).free,
        has=lambda name: shutil.which(name, path=_PATH) is not None,
        owner=_owner,
        machine=platform.machine(),
        now=time.time(),
    )


_PATH: Final = os.pathsep.join(
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
)
"""Where a service's programs lie, whatever PATH the login shell of the deployment's user has."""


def _run(command: Sequence[str]) -> Answer:
    try:
        ended = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Answer(None, "", str(error))
    return Answer(ended.returncode, ended.stdout, ended.stderr)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _owner(inode: int) -> str:
    wanted = f"socket:[{inode}]"
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(link.readlink()) == wanted for link in (folder / "fd").iterdir()):
                return _read(str(folder / "cgroup"))
        except OSError:  # ended meanwhile, or not ours to see
            continue
    return ""


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"


def _dotted(parts: tuple[int, ...] | None) -> str:
    return "unknown" if parts is None else ".".join(map(str, parts))
