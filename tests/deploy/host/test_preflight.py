"""The checks of a host, against recorded answers of machines that are not at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.deploy.host import container_checks, preflight
from orchestrator.deploy.host.probe import Answer, Probe
from orchestrator.deploy.host.requirements import Request
from orchestrator.errors import ConfigurationError

RECORDED = Path(__file__).parent / "recorded"
GIB = 1024**3


def recorded(name: str) -> str:
    return (RECORDED / name).read_text(encoding="utf-8")


def probe(
    answers: Mapping[str, Answer] | None = None,
    *,
    files: Mapping[str, str] | None = None,
    missing: Sequence[str] = (),
    free: int = 500 * GIB,
    groups: Mapping[int, str] | None = None,
    machine: str = "aarch64",
    now: float = 1000.0,
) -> Probe:
    """A DGX Spark with Docker, unless told otherwise; a command gets the answer whose key it begins with."""
    told = {
        "nvidia-smi --query": Answer(0, recorded("gb10-query.txt")),
        "nvidia-smi": Answer(0, recorded("gb10-nvidia-smi.txt")),
        "docker info": Answer(0, recorded("docker-info-nvidia.json")),
        "docker image inspect": Answer(0, "[]"),
        "docker run": Answer(0, "GPU 0: NVIDIA GB10 (UUID: GPU-2dee1e25)\n"),
        "python3": Answer(0, "3.12 /usr/lib/aarch64-linux-gnu/libpython3.12.so.1.0\n"),
        **(answers or {}),
    }
    texts = {"/proc/meminfo": recorded("gb10-meminfo.txt"), **(files or {})}

    def run(command: Sequence[str]) -> Answer:
        text = " ".join(command)
        fitting = [key for key in told if text.startswith(key)]
        return told[max(fitting, key=len)] if fitting else Answer(None, "")

    return Probe(
        run=run,
        read=lambda path: texts.get(path, ""),
        exists=lambda path: path in texts,
        free_bytes=lambda folder: free,
        has=lambda name: name not in missing,
        owner=lambda inode: (groups or {}).get(inode, ""),
        machine=machine,
        now=now,
    )


def found(request: Request, asked: Probe) -> dict[str, dict[str, Any]]:
    checks = preflight.examine(request, asked)["checks"]
    return {check["name"]: check for check in checks}


def failures(request: Request, asked: Probe) -> list[str]:
    report = preflight.examine(request, asked)
    failed = [check["name"] for check in report["checks"] if check["level"] == "fail"]
    assert report["ok"] == (not failed)
    assert all(check["fix"] for check in report["checks"] if check["level"] == "fail")
    return failed


CUDA = Request(device="cuda", target="aarch64", memory_floor_bytes=8 * GIB)


def test_a_spark_is_fit() -> None:
    report = preflight.examine(dataclasses.replace(CUDA, image="triton:1"), probe())
    assert report["ok"]
    assert report["changed"] is False
    facts = report["facts"]
    assert facts["runtime"] == "container"
    assert facts["cuda"] == (13, 0)
    assert facts["gpus"][0]["memory_bytes"] is None
    assert facts["memory_available"] == 118566368 * 1024


def test_without_docker_auto_means_systemd() -> None:
    asked = probe({"docker info": Answer(1, recorded("docker-info-no-daemon.json"))})
    assert preflight.examine(CUDA, asked)["facts"]["runtime"] == "systemd"
    assert failures(dataclasses.replace(CUDA, runtime="container"), asked) == ["docker"]


def test_memory_is_the_kernels_available_and_not_the_free() -> None:
    asked = probe(files={"/proc/meminfo": "MemFree: 90000000 kB\nMemAvailable: 8388607 kB\n"})
    assert failures(CUDA, asked) == ["memory"]
    asked = probe(files={"/proc/meminfo": "MemFree: 1000 kB\nMemAvailable: 8388608 kB\n"})
    assert failures(CUDA, asked) == []


def test_disk_counts_only_what_is_not_there_yet(tmp_path: Path) -> None:
    there = tmp_path / "manifest.json"
    there.touch()
    needs = [
        {"path": str(there), "bytes": 900 * GIB},
        {"path": str(tmp_path / "missing"), "bytes": 10 * GIB},
    ]
    request = dataclasses.replace(CUDA, home=str(tmp_path), needs=needs)
    assert failures(request, probe(free=10 * GIB)) == []
    assert failures(request, probe(free=10 * GIB - 1)) == ["disk"]


def test_a_port_of_another_program_is_taken() -> None:
    table = {"/proc/net/tcp": recorded("proc-net-tcp.txt")}
    request = dataclasses.replace(CUDA, ports={"front triton": 8000})
    assert failures(request, probe(files=table, groups={51234: "0::/system.slice/nginx.service"})) == [
        "ports"
    ]
    assert "8000 (front triton)" in found(request, probe(files=table))["ports"]["message"]


@pytest.mark.parametrize(
    "group",
    [
        "0::/system.slice/spark-speech-front.service",
        "1:name=systemd:/system.slice/system-spark\\x2dspeech\\x2dtriton.slice/spark-speech-triton@blue.service",
    ],
)
def test_a_port_of_our_own_is_not_taken(group: str) -> None:
    table = {"/proc/net/tcp": recorded("proc-net-tcp.txt")}
    request = dataclasses.replace(CUDA, ports={"front triton": 8000})
    assert failures(request, probe(files=table, groups={51234: group})) == []


def test_a_container_counts_as_our_own_where_the_service_is_installed(tmp_path: Path) -> None:
    table = {"/proc/net/tcp": recorded("proc-net-tcp.txt")}
    asked = probe(files=table, groups={51234: "0::/system.slice/docker-0123456789ab.scope"})
    request = dataclasses.replace(CUDA, home=str(tmp_path), ports={"front triton": 8000})
    assert failures(request, asked) == ["ports"]
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "state.json").touch()
    assert failures(request, asked) == []


@pytest.mark.parametrize(("ahead", "fails"), [(29.0, False), (-29.0, False), (31.0, True), (-31.0, True)])
def test_clock(ahead: float, fails: bool) -> None:
    request = dataclasses.replace(CUDA, controller_time=5000.0)
    assert (failures(request, probe(now=5000.0 + ahead)) == ["clock"]) is fails


def test_a_release_for_another_processor() -> None:
    assert failures(CUDA, probe(machine="x86_64")) == ["machine"]


def test_a_release_for_a_gpu_needs_one() -> None:
    asked = probe({"nvidia-smi --query": Answer(None, "", "not found")})
    assert failures(CUDA, asked) == ["gpu"]
    assert failures(dataclasses.replace(CUDA, device="cpu"), asked) == []


@pytest.mark.parametrize(
    "line", ["NVIDIA GB10, 12.1, 570.86.10, [N/A]", "NVIDIA TITAN V, 7.0, 580.95.05, 12066"]
)
def test_an_old_driver_or_gpu(line: str) -> None:
    assert failures(CUDA, probe({"nvidia-smi --query": Answer(0, line)})) == ["gpu"]


def test_docker_without_nvidias_runtime() -> None:
    asked = probe(
        {"docker info": Answer(0, recorded("docker-info-plain.json"))}, missing=[container_checks.HOOK]
    )
    assert failures(CUDA, asked) == ["nvidia runtime"]
    assert failures(dataclasses.replace(CUDA, device="cpu"), asked) == []


def test_docker_hands_out_gpus_with_the_hook_alone() -> None:
    asked = probe({"docker info": Answer(0, recorded("docker-info-plain.json"))})
    assert failures(dataclasses.replace(CUDA, image="triton:1"), asked) == []


def test_a_container_that_sees_no_gpu() -> None:
    said = "docker: Error response from daemon: could not select device driver"
    asked = probe({"docker run": Answer(125, "", said)})
    request = dataclasses.replace(CUDA, image="triton:1")
    assert failures(request, asked) == ["gpu in container"]
    assert said in found(request, asked)["gpu in container"]["message"]


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("unauthorized: <html>Authentication is required</html>", "docker login"),
        ("no such manifest: nvcr.io/nvidia/tritonserver:0", "name"),
    ],
)
def test_an_image_that_is_not_here_and_cannot_be_pulled(said: str, fix: str) -> None:
    request = dataclasses.replace(CUDA, image="triton:1", image_buildable=False)
    asked = probe({"docker image inspect": Answer(1, "[]"), "docker manifest": Answer(1, "", said)})
    assert failures(request, asked) == ["image"]
    assert fix in str(found(request, asked)["image"]["fix"])
    asked = probe({"docker image inspect": Answer(1, "[]"), "docker manifest": Answer(0, "{}")})
    assert failures(request, asked) == []


def test_python_for_an_environment_that_is_built_here() -> None:
    request = dataclasses.replace(CUDA, runtime="systemd")
    assert failures(request, probe()) == []
    assert failures(request, probe({"python3": Answer(0, "3.10 /usr/lib/libpython3.10.so.1.0\n")})) == [
        "python"
    ]
    assert failures(request, probe({"python3": Answer(0, "3.12 \n")})) == ["python"]
    assert failures(request, probe({"python3": Answer(None, "")})) == ["python"]


def test_a_ready_environment_must_be_one(tmp_path: Path) -> None:
    request = dataclasses.replace(CUDA, runtime="systemd", environment_source=str(tmp_path))
    assert failures(request, probe()) == ["environment"]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "spark-speech").touch()
    assert failures(request, probe()) == []
    assert len(preflight.examine(request, probe())["facts"]["environment_digest"]) == 64


def test_programs_that_are_missing_are_named_or_installed() -> None:
    request = dataclasses.replace(CUDA, programs=("rsync", "haproxy"))
    asked = probe(missing=["haproxy"])
    assert failures(request, asked) == ["programs"]
    assert preflight.examine(request, asked)["facts"]["missing_programs"] == ["haproxy"]
    assert failures(dataclasses.replace(request, installable=True), asked) == []


def test_an_unknown_key_of_the_request() -> None:
    with pytest.raises(ConfigurationError, match="hoem"):
        preflight.run({"hoem": "/srv"})


def test_this_machine_answers() -> None:
    report = preflight.run({"runtime": "systemd", "ports": {"none": 1}})
    assert report["facts"]["memory_available"] > 0
    assert {check["name"] for check in report["checks"]} >= {"memory", "disk", "ports", "python"}
