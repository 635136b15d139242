"""The gateway's ports: where it is, and the sockets that it listens on."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.errors import PortInUseError
from orchestrator.runtime.ports import check_ports
from orchestrator.settings import GatewaySettings

_BACKLOG: Final = 256
_MS_PER_S: Final = 1000


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a gateway is, for people and programs.

    Attributes:
        http: the URL of the HTTP service.
        riva: ``host:port`` of Riva's service; None where it is not served.
        upstream: ``host:port`` of Triton.
    """

    http: str
    riva: str | None
    upstream: str


def addresses(gateway: GatewaySettings, upstream: str) -> Addresses:
    """Where a gateway with these settings is."""
    scheme = "http" if gateway.tls_certfile is None else "https"
    host = f"[{gateway.host}]" if ":" in gateway.host else gateway.host
    riva = None if gateway.grpc_port is None else f"{host}:{gateway.grpc_port}"
    return Addresses(f"{scheme}://{host}:{gateway.http_port}", riva, upstream)


def check(gateway: GatewaySettings) -> None:
    """Make sure that nobody has the ports.

    Raises:
        PortInUseError: one is taken.
        ConfigurationError: the host is no address of this machine.
    """
    ports = {"gateway.http_port": gateway.http_port}
    if gateway.grpc_port is not None:
        ports["gateway.grpc_port"] = gateway.grpc_port
    check_ports(gateway.host, ports)


def listen(gateway: GatewaySettings) -> socket.socket:
    """The socket of the HTTP port, listening.

    Raises:
        PortInUseError: the port is taken.
    """
    try:
        listener = socket.create_server(
            (gateway.host, gateway.http_port), family=_family(gateway), backlog=_BACKLOG
        )
    except OSError as error:
        raise _taken("http_port", gateway.host, gateway.http_port, error) from error
    _bound_unread(listener, gateway.stream_idle_timeout_s)
    return listener


def reserve(gateway: GatewaySettings) -> socket.socket | None:
    """A socket on the gRPC port that gets no connections, but keeps the port for sockets of SO_REUSEPORT.

    gRPC opens its listening sockets itself, so the port passes from one process to another by being shared.
    None where gRPC is not served.

    Raises:
        PortInUseError: the port is taken.
    """
    if gateway.grpc_port is None:
        return None
    holder = socket.socket(_family(gateway), socket.SOCK_STREAM)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((gateway.host, gateway.grpc_port))
    except OSError as error:
        holder.close()
        raise _taken("grpc_port", gateway.host, gateway.grpc_port, error) from error
    return holder


def leave(port: int) -> None:
    """Let nobody connect to this process at ``port`` any more; connections that are there stay.

    gRPC can stop listening only together with everything else, which breaks off calls of connections that
    were made in that moment. So its listening sockets are looked up among the process's and shut down; gRPC
    finds them so, logs that it closes an acceptor, and goes on.
    """
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own has gone
            if not stat.S_ISSOCK(os.fstat(int(entry.name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as own:
                listens = own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if listens and own.getsockname()[1] == port:
                    own.shutdown(socket.SHUT_RDWR)


def _bound_unread(listener: socket.socket, limit_s: float) -> None:
    """Let the kernel end connections of ``listener`` whose client reads nothing for ``limit_s`` seconds.

    What was written waits in the kernel and in asyncio, whose close waits for it to be read, for ever. The
    connections inherit the option (tcp(7), TCP_USER_TIMEOUT; Linux only).
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(int(limit_s * _MS_PER_S), 1))


def _family(gateway: GatewaySettings) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in gateway.host else socket.AF_INET


def _taken(setting: str, host: str, port: int, error: OSError) -> PortInUseError:
    return PortInUseError(
        f"port {port} (gateway.{setting}) cannot be listened on: {error.strerror}",
        host=f"{host}:{port}",
        fix=f"stop what uses it, or set gateway.{setting} to a free port",
    )
