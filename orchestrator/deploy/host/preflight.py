"""Is this host fit for a deployment? A list of checks, each with what to do about it; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from orchestrator.deploy.host import checks, readings
from orchestrator.deploy.host.container_checks import container_checks
from orchestrator.deploy.host.fingerprint import fingerprint
from orchestrator.deploy.host.probe import Probe, this_host
from orchestrator.deploy.host.requirements import FAIL, Check, Findings, Request
from orchestrator.errors import RepositoryError

PTXAS: Final = "/usr/local/cuda/bin/ptxas"
"""The assembler of the CUDA toolkit, where it is installed: newer than the one in packages."""
_PYTHON: Final = (
    "import os, sys, sysconfig; v = '%d.%d' % sys.version_info[:2]; n = f'libpython{v}.so.1.0'; "
    "m = sysconfig.get_config_var('MULTIARCH') or ''; "
    "f = [os.path.join(sys.base_prefix, 'lib'), sysconfig.get_config_var('LIBDIR') or '', '/usr/lib/' + m]; "
    "print(v, next((os.path.join(d, n) for d in f if os.path.exists(os.path.join(d, n))), ''))"
)
"""Prints the interpreter's version and its shared library, where there is one."""


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
    made = [
        checks.check_programs(request, probe),
        checks.check_machine(request, probe),
        checks.check_disk(request, probe),
        checks.check_memory(request, memory),
        checks.check_ports(request, probe),
        checks.check_clock(request, probe),
        checks.check_gpu(request, found),
        *(
            container_checks(request, found, probe)
            if runtime == "container"
            else checks.python_checks(request, found)
        ),
    ]
    digest = ""
    if runtime == "systemd" and request.environment_source:
        try:
            digest = fingerprint(Path(request.environment_source))
        except RepositoryError as error:
            made.append(Check("environment", FAIL, str(error.message), error.fix))
    return {
        "changed": False,
        "ok": all(check.level != FAIL for check in made),
        "checks": [check.to_dict() for check in made],
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
