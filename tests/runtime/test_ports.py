"""Ports that are taken are found before anything starts."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import ConfigurationError, PortInUseError
from orchestrator.runtime import ports as module
from orchestrator.runtime.ports import check_ports, free_ports, is_loopback, reachable_host


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_names_port_setting_and_process(taken: int, host: str) -> None:
    with pytest.raises(PortInUseError) as caught:
        check_ports(host, {"server.grpc_port": taken})
    assert str(taken) in caught.value.message
    assert f"pid {os.getpid()}" in caught.value.message
    assert "server.grpc_port" in (caught.value.fix or "")


def test_free_ports_are_different_and_pass_the_check() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    check_ports("127.0.0.1", {f"port {port}": port for port in ports})


def test_free_ports_are_none_that_the_kernel_gives_to_connections() -> None:
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        given = connection.getsockname()[1]
    ephemeral = module._ephemeral()
    assert given in ephemeral
    assert not set(free_ports(50)) & set(ephemeral)


def test_taken_ports_are_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_ports(1)[0]))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "range").write_text(f"{port + 3}\t65535\n")
        monkeypatch.setattr(module, "_EPHEMERAL", tmp_path / "range")
        monkeypatch.setattr(module, "_LOWEST", port)
        assert port not in free_ports(2)


@pytest.mark.parametrize("content", ["1024\t65535\n", None, "nothing"])
def test_systems_whose_range_is_unknown_or_everything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "range").write_text(content)
    monkeypatch.setattr(module, "_EPHEMERAL", tmp_path / "range")
    assert len(set(free_ports(3))) == 3


def test_a_port_whose_server_has_just_gone_is_free(taken: int) -> None:
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", port)) as listener:
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = listener.accept()
        accepted.close()  # this side closes first and so keeps the connection in TIME_WAIT
        client.close()
    check_ports("127.0.0.1", {"server.http_port": port})


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_another_machine_is_a_wrong_setting(host: str) -> None:
    with pytest.raises(ConfigurationError, match="no address of this machine"):
        check_ports(host, {"server.http_port": 18080})


def test_hosts() -> None:
    assert reachable_host("0.0.0.0") == "127.0.0.1"
    assert reachable_host("::") == "::1"
    assert reachable_host("192.0.2.1") == "192.0.2.1"
    assert reachable_host("spark.local") == "spark.local"
    assert is_loopback("127.0.0.1")
    assert is_loopback("localhost")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("spark.local")
