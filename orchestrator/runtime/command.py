"""The command line and the environment of a tritonserver; pure, nothing is started here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from orchestrator.coldstart.cuda_cache import cuda_environment
from orchestrator.runtime.triton import TritonInstall
from orchestrator.settings import ServerSettings

SHM_DEFAULT_BYTES: Final = 16 * 1024**2
"""What each model instance starts with in /dev/shm; it grows as it must."""
STUB_TIMEOUT_S: Final = 600
"""How long a model may take to start: the import of NeMo alone can take 25 s, and weights come after it."""
KEEPALIVE_MS: Final = 30_000
"""Pings on idle gRPC connections keep them open through firewalls, and find dead clients."""


def server_command(
    triton: TritonInstall,
    repository: Path,
    models: Sequence[str] | None,
    settings: ServerSettings,
    shm_prefix: str,
    closed_key: str,
) -> list[str]:
    """The argument vector.

    Args:
        triton: the server to run.
        repository: the model repository.
        models: what to load, at least one; other models in the repository stay unloaded, and anybody who
            reaches the server may load and unload models. None: the whole repository, once and for all:
            Triton refuses to change it, which 2.51 does not always survive while requests are under way.
        settings: addresses, ports and times.
        shm_prefix: how the names of this server's shared memory regions begin.
        closed_key: a random key that the shared-memory interface asks for. No client of this project uses
            that interface, and it maps any region of the machine by name, so nobody is told the key.
    """
    backend = {
        "shm-default-byte-size": SHM_DEFAULT_BYTES,
        "stub-timeout-seconds": STUB_TIMEOUT_S,
        "shm-region-prefix-name": shm_prefix,
    }
    return [
        str(triton.executable),
        f"--model-repository={repository}",
        f"--backend-directory={triton.backend_directory}",
        *(
            ["--model-control-mode=none"]
            if models is None
            else ["--model-control-mode=explicit", *(f"--load-model={name}" for name in models)]
        ),
        # config.pbtxt is complete: nothing is to be guessed from the model.
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        # Stay up with a failed model, so that its reason can be asked for.
        "--exit-on-error=false",
        f"--exit-timeout-secs={max(1, round(settings.stop_timeout_s))}",
        f"--http-address={settings.host}",
        f"--http-port={settings.http_port}",
        f"--grpc-address={settings.host}",
        f"--grpc-port={settings.grpc_port}",
        f"--grpc-keepalive-time={KEEPALIVE_MS}",
        f"--http-restricted-api=shared-memory:closed={closed_key}",
        f"--grpc-restricted-protocol=shared-memory:closed={closed_key}",
        f"--metrics-address={settings.host}",
        f"--metrics-port={settings.metrics_port}",
        "--metrics-config=histogram_latencies=true",
        *(f"--backend-config=python,{key}={value}" for key, value in backend.items()),
    ]


def server_environment(
    triton: TritonInstall, cache: Path, temporary: Path, base: Mapping[str, str]
) -> dict[str, str]:
    """The environment: ``base``, the server's libraries, kept GPU code, no telemetry, no model hub.

    Args:
        triton: the server to run.
        cache: the folder that compiled GPU code is kept below.
        temporary: the folder for temporary files.
        base: the environment to start from.
    """
    return {
        **triton.environment(base),
        **cuda_environment(cache),
        "TMPDIR": str(temporary),
        "PYANNOTE_METRICS_ENABLED": "0",
        # A release is complete: a model that asks the hub while it is served is a fault to be seen at once.
        "HF_HUB_OFFLINE": "1",
        # Recogniser and diarizer work at the same time. OpenMP threads that spin while they wait take the
        # cores from each other: on two busy cores 30 s of audio took 24-44 s, and 4-5 s with sleeping ones.
        "OMP_WAIT_POLICY": base.get("OMP_WAIT_POLICY", "PASSIVE"),
        # Tracebacks and prints of the models reach the log when they happen.
        "PYTHONUNBUFFERED": "1",
        # A release holds what its manifest says and nothing else.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
