"""The server's command line and environment."""

from __future__ import annotations

from pathlib import Path

from orchestrator.coldstart.cuda_cache import policy_violations
from orchestrator.runtime.command import server_command, server_environment
from orchestrator.runtime.triton import TritonInstall
from orchestrator.settings import ServerSettings

TRITON = TritonInstall(Path("/srv/triton"), "2.51.0", "wheel", (Path("/srv/triton/lib"),))


def command(**settings: object) -> list[str]:
    return server_command(
        TRITON,
        Path("/srv/repository"),
        ["moonshine", "diarizer"],
        ServerSettings.model_validate(settings),
        "prefix_",
        closed_key="secret",
    )


def test_only_the_named_models_are_loaded() -> None:
    argv = command()
    assert argv[0] == "/srv/triton/bin/tritonserver"
    assert "--model-control-mode=explicit" in argv
    assert [flag for flag in argv if flag.startswith("--load-model")] == [
        "--load-model=moonshine",
        "--load-model=diarizer",
    ]


def test_a_whole_repository_is_closed_to_changes() -> None:
    argv = server_command(TRITON, Path("/srv/repository"), None, ServerSettings(), "prefix_", closed_key="x")
    assert "--model-control-mode=none" in argv
    assert not [flag for flag in argv if flag.startswith("--load-model")]


def test_every_endpoint_is_bound_to_the_configured_host_and_port() -> None:
    argv = command(host="192.0.2.7", http_port=1111, grpc_port=2222, metrics_port=3333)
    for name, port in (("http", 1111), ("grpc", 2222), ("metrics", 3333)):
        assert f"--{name}-address=192.0.2.7" in argv
        assert f"--{name}-port={port}" in argv


def test_the_default_is_reachable_from_this_machine_only() -> None:
    addresses = [flag for flag in command() if "-address=" in flag]
    assert len(addresses) == 3
    assert all(flag.endswith("=127.0.0.1") for flag in addresses)


def test_shared_memory_is_closed_to_clients_and_regions_carry_the_servers_prefix() -> None:
    argv = command()
    assert "--http-restricted-api=shared-memory:closed=secret" in argv
    assert "--grpc-restricted-protocol=shared-memory:closed=secret" in argv
    assert "--backend-config=python,shm-region-prefix-name=prefix_" in argv


def test_requests_in_flight_get_the_configured_time() -> None:
    assert "--exit-timeout-secs=12" in command(stop_timeout_s=12)
    assert "--exit-timeout-secs=1" in command(stop_timeout_s=0.2)


def test_the_environment_keeps_gpu_code_and_asks_nobody() -> None:
    base = {"PATH": "/usr/bin", "CUDA_FORCE_PTX_JIT": "1", "HOME": "/home/someone"}
    environment = server_environment(TRITON, Path("/cache"), Path("/scratch"), base)
    assert policy_violations(environment) == []
    assert environment["CUDA_CACHE_PATH"].startswith("/cache/")
    assert environment["TMPDIR"] == "/scratch"
    assert environment["PYANNOTE_METRICS_ENABLED"] == "0"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["HOME"] == "/home/someone"
    assert environment["LD_LIBRARY_PATH"] == "/srv/triton/lib"


def test_waiting_threads_sleep_unless_told_otherwise() -> None:
    assert server_environment(TRITON, Path("/cache"), Path("/scratch"), {})["OMP_WAIT_POLICY"] == "PASSIVE"
    told = server_environment(TRITON, Path("/cache"), Path("/scratch"), {"OMP_WAIT_POLICY": "ACTIVE"})
    assert told["OMP_WAIT_POLICY"] == "ACTIVE"
