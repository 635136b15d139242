"""What machines' own programs say, and what is read out of it.

The samples of a GB10 are from public reports and, where those have gaps, written in the documented shape.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.deploy.host import readings
from orchestrator.deploy.host.readings import Docker, Gpu

RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str) -> str:
    return (RECORDED / name).read_text(encoding="utf-8")


def test_gb10_has_a_gpu_without_memory_of_its_own() -> None:
    assert readings.gpus(recorded("gb10-query.txt")) == (Gpu("NVIDIA GB10", (12, 1), (580, 95, 5), None),)


def test_gpus_with_memory_of_their_own() -> None:
    found = readings.gpus(recorded("h200-query.txt"))
    assert [gpu.memory_bytes for gpu in found] == [143771 * 1024**2] * 2
    assert found[0].capability == (9, 0)


def test_what_is_no_answer_to_the_query_is_passed_over() -> None:
    assert readings.gpus("NVIDIA-SMI has failed because it couldn't communicate with the driver.\n") == ()


def test_cuda_version_of_the_driver() -> None:
    assert readings.cuda_version(recorded("gb10-nvidia-smi.txt")) == (13, 0)
    assert readings.cuda_version("CUDA Version: N/A") is None


def test_meminfo_of_gb10() -> None:
    memory = readings.meminfo(recorded("gb10-meminfo.txt"))
    assert memory["MemAvailable"] == 118566368 * 1024
    assert memory["HugePages_Total"] == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("docker-info-nvidia.json", Docker("28.3.3", ("io.containerd.runc.v2", "nvidia", "runc"), True)),
        ("docker-info-cdi.json", Docker("28.5.1", ("io.containerd.runc.v2", "runc"), True)),
        ("docker-info-no-daemon.json", None),
    ],
)
def test_docker(name: str, expected: Docker | None) -> None:
    assert readings.docker(recorded(name)) == expected


def test_docker_without_gpus() -> None:
    found = readings.docker(recorded("docker-info-plain.json"))
    assert found is not None
    assert not found.gpus


@pytest.mark.parametrize("text", ["", "not json", "[]", "{}", '{"ServerVersion": ""}'])
def test_docker_that_does_not_answer(text: str) -> None:
    assert readings.docker(text) is None


def test_only_listening_sockets_hold_ports() -> None:
    assert readings.listening([recorded("proc-net-tcp.txt"), ""]) == {8000: 51234, 22: 1066}


@given(st.text())
def test_no_text_breaks_the_reading(text: str) -> None:
    readings.gpus(text)
    readings.cuda_version(text)
    readings.meminfo(text)
    readings.docker(text)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=5))
def test_versions_are_numbers(parts: list[int]) -> None:
    assert readings.version(".".join(map(str, parts))) == tuple(parts)
