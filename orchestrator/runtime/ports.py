"""Local TCP ports: who has one, and finding free ones."""

from __future__ import annotations

import errno
import ipaddress
import random
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import psutil

from orchestrator.errors import ConfigurationError, PortInUseError

_EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""First and last port that Linux gives to outgoing connections (IPv6's too), see ip(7)."""
_LOWEST: Final = 20_000
"""Below it are the ports that services have by default."""


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
    """``count`` different ports of ``host`` that nothing listens on now.

    They are drawn at random where the kernel takes no ports for outgoing connections: a server that binds its
    port only after minutes of loading models still finds it free. Only another server may take it first.
    """
    ephemeral = _ephemeral()
    candidates = [port for port in range(_LOWEST, 1 << 16) if port not in ephemeral]
    random.shuffle(candidates)
    with ExitStack() as held:
        return tuple(_hold_one(held, host, candidates) for _ in range(count))


def _ephemeral() -> range:
    try:
        first, last = _EPHEMERAL.read_text().split()
    except (OSError, ValueError):  # another system: its usual range
        return range(32_768, 1 << 16)
    return range(int(first), int(last) + 1)


def _hold_one(held: ExitStack, host: str, candidates: list[int]) -> int:
    """Bind a port until ``held`` is left."""
    while True:
        listener = held.enter_context(_socket(host))
        port = candidates.pop() if candidates else 0  # 0: the kernel chooses, where all ports are its own
        try:
            listener.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL or not port:
                raise _no_address(host) from error
            continue
        chosen: int = listener.getsockname()[1]
        return chosen


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
