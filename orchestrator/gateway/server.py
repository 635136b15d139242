"""The gateway's process: an HTTP and a gRPC port, one event loop, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn

from orchestrator.errors import ConfigurationError, PortInUseError
from orchestrator.gateway.admission import Admission
from orchestrator.gateway.http.app import create_app
from orchestrator.gateway.http.observe import access_log
from orchestrator.gateway.http.state import Shared
from orchestrator.gateway.metrics import GatewayMetrics
from orchestrator.gateway.riva.server import RivaServer
from orchestrator.gateway.service import TritonService
from orchestrator.runtime.ports import check_ports
from orchestrator.settings import GatewaySettings, Settings

_ENDING_S: Final = 5
"""On top of the time to drain: for telling requests that time is up, and closing."""
_BACKLOG: Final = 256


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


Announce = Callable[[Addresses], None]


def serve(settings: Settings, url: str | None, announce: Announce) -> None:
    """Serve until SIGTERM or Ctrl-C; then take nothing new, let running requests finish, and return.

    Args:
        settings: of which ``gateway``, ``client`` and ``audio`` count.
        url: Triton's gRPC; ``settings.client.url`` if left out.
        announce: told the addresses once connections are accepted.

    Raises:
        PortInUseError: a port is taken.
        ConfigurationError: the host, the upstream's address or the TLS files are wrong.
    """
    gateway = settings.gateway
    ports = {"gateway.http_port": gateway.http_port}
    if gateway.grpc_port is not None:
        ports["gateway.grpc_port"] = gateway.grpc_port
    check_ports(gateway.host, ports)
    service = TritonService(settings, url)
    listener = _listen(gateway)
    with listener, tempfile.TemporaryDirectory(prefix="spark-speech-gateway-") as spool, _access_logging():
        asyncio.run(_serve(gateway, service, listener, Path(spool), announce))


async def _serve(
    gateway: GatewaySettings,
    service: TritonService,
    listener: socket.socket,
    spool: Path,
    announce: Announce,
) -> None:
    admission = Admission(gateway.max_requests)
    streams = Admission(gateway.max_streams, "streams")
    metrics = GatewayMetrics(lambda: admission.running, lambda: streams.running)
    shared = Shared(gateway, service, admission, metrics, spool)
    config = uvicorn.Config(
        create_app(shared),
        http="h11",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(gateway.drain_timeout_s) + _ENDING_S,
        ssl_certfile=gateway.tls_certfile,
        ssl_keyfile=gateway.tls_keyfile,
        ssl_ca_certs=None if gateway.tls_client_ca is None else str(gateway.tls_client_ca),
        ssl_cert_reqs=ssl.CERT_NONE if gateway.tls_client_ca is None else ssl.CERT_REQUIRED,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"the TLS files of [gateway] cannot be used: {error.strerror or error}",
            fix="name a PEM certificate, its key without a passphrase, and a PEM client CA if any.",
            path=gateway.tls_certfile,
        ) from error
    scheme = "http" if gateway.tls_certfile is None else "https"
    host = f"[{gateway.host}]" if ":" in gateway.host else gateway.host
    riva = RivaServer(gateway, service, admission, streams, metrics)
    try:
        if gateway.grpc_port is not None:
            await riva.start(gateway.grpc_port)
        riva_address = None if gateway.grpc_port is None else f"{host}:{gateway.grpc_port}"
        announce(Addresses(f"{scheme}://{host}:{gateway.http_port}", riva_address, service.host))

        def drain() -> None:
            for each in (admission, streams):
                each.drain(gateway.drain_timeout_s)

        server = _Server(config, drain)
        await server.serve([listener])
        drain()  # nothing new where it was not a signal that ended it
        if not server.force_exit:
            await riva.drained()
    finally:
        await riva.stop()
        await service.close()


class _Server(uvicorn.Server):
    """uvicorn, whose signals begin the drain and do not come back as the process's death."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain = drain

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def on_signal(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._drain)
            self.handle_exit(number, frame)

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(gateway: GatewaySettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in gateway.host else socket.AF_INET
    try:
        return socket.create_server((gateway.host, gateway.http_port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise PortInUseError(
            f"port {gateway.http_port} (gateway.http_port) cannot be listened on: {error.strerror}",
            host=f"{gateway.host}:{gateway.http_port}",
            fix="stop what uses it, or set gateway.http_port to a free port",
        ) from error


@contextmanager
def _access_logging() -> Iterator[None]:
    """Lines of JSON on standard error, whatever else is logged."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    access_log.addHandler(handler)
    access_log.setLevel(logging.INFO)
    access_log.propagate = False
    try:
        yield
    finally:
        access_log.removeHandler(handler)
