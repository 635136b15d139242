"""Local TCP ports: who has one, and finding free ones."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Mapping
from contextlib import ExitStack

import psutil

from orchestrator.errors import ConfigurationError, PortInUseError


def check_ports(host: str, ports: Mapping[str, int]) -> None:
    """Make sure that nothing listens on ``ports`` of ``host``; the keys name the settings they come from.

    Raises:
        PortInUseError: names the port, the setting and, where the system tells, the process.
        ConfigurationError: ``host`` is no address of this machine.
    """
    for setting, port in ports.items():
        with _socket(host) as listener:
            # As servers do: without it a port counts as taken for a minute after its server has gone.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, port))
                listener.listen(1)
            except PermissionError as error:
                raise ConfigurationError(
                    f"port {port} ({setting}) needs root", fix=f"set {setting} to a port from 1024 up"
                ) from error
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise _no_address(host) from error
                holder = holder_of(port)
                by = "" if holder is None else f" by {holder}"
                raise PortInUseError(
                    f"port {port} ({setting}) is taken{by}",
                    host=f"{host}:{port}",
                    fix=f"stop what uses it, or set {setting} to a free port",
                ) from error


def holder_of(port: int) -> str | None:
    """``pid 123 (name)`` of the process that listens on ``port``, None where the system does not tell."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return None
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            if connection.pid is None:
                return None
            try:
                return f"pid {connection.pid} ({psutil.Process(connection.pid).name()})"
            except psutil.Error:
                return f"pid {connection.pid}"
    return None


def free_ports(count: int, host: str = "127.0.0.1") -> tuple[int, ...]:
    """``count`` different ports that nothing listens on now; another process may still take one first."""
    with ExitStack() as held:
        listeners = [held.enter_context(_socket(host)) for _ in range(count)]
        for listener in listeners:
            listener.bind((host, 0))
        return tuple(listener.getsockname()[1] for listener in listeners)


def reachable_host(host: str) -> str:
    """The address at which this machine reaches a server that is bound to ``host``."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "::1"
    return host


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that is bound to ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _socket(host: str) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except (OSError, UnicodeError) as error:
        raise _no_address(host) from error
    return socket.socket(family, socket.SOCK_STREAM)


def _no_address(host: str) -> ConfigurationError:
    return ConfigurationError(
        f"server.host {host!r} is no address of this machine",
        host=host,
        fix="set server.host to 127.0.0.1, or to 0.0.0.0 to serve the network",
    )
