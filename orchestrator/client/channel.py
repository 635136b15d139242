"""gRPC channels, as every transport that speaks gRPC opens them."""

from __future__ import annotations

import math
from typing import Final

import anyio
import grpc
import grpc.aio

from orchestrator.errors import ConfigurationError

_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A server that restarts is found again in a second; gRPC's own default backs off to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A speech service is private: recordings must not take the way of http_proxy.
    ("grpc.enable_http_proxy", 0),
    # Channels to one address share a connection otherwise, and closing one client would disturb another.
    ("grpc.use_local_subchannel_pool", 1),
)


def parse_url(url: str, what: str = "Triton's gRPC", port: int = 8001) -> tuple[str, bool]:
    """``host:port`` and whether to use TLS, of ``host:port``, ``grpc://host:port`` or ``grpcs://host:port``.

    ``what`` it should be an address of, and the usual ``port``, are for the message.

    Raises:
        ConfigurationError: anything else.
    """
    scheme, found, rest = url.strip().rstrip("/").rpartition("://")
    address = rest
    host, colon, number = address.rpartition(":")
    if (found and scheme not in ("grpc", "grpcs")) or not (host and colon and number.isdigit()):
        raise ConfigurationError(
            f"{url!r} is not an address of {what}.",
            fix=f"write it as host:port, such as 127.0.0.1:{port} (grpcs://host:port for TLS).",
        )
    return address, scheme == "grpcs"


def open_channel(host: str, *, tls: bool, authorities: bytes | None = None) -> grpc.aio.Channel:
    """A channel to ``host:port``, which connects with the first call.

    Args:
        host: ``host:port``.
        tls: whether the server speaks TLS.
        authorities: PEM certificates that the server's own must be signed by; None: those of gRPC.
    """
    if tls:
        credentials = grpc.ssl_channel_credentials(authorities)
        return grpc.aio.secure_channel(host, credentials, options=_OPTIONS)
    return grpc.aio.insecure_channel(host, options=_OPTIONS)


def left_s(limit_s: float | None) -> float | None:
    """The time that a call gets; the server drops what the caller's own deadline leaves no time for."""
    left = max(anyio.current_effective_deadline() - anyio.current_time(), 0.0)
    if math.isinf(left):
        return limit_s
    return left if limit_s is None else min(limit_s, left)
