"""Ports that are taken are found before anything starts."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from orchestrator.errors import ConfigurationError, PortInUseError
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
