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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn

from orchestrator.errors import ConfigurationError, SpeechError
from orchestrator.gateway import ports
from orchestrator.gateway.admission import Admission
from orchestrator.gateway.http.app import create_app
from orchestrator.gateway.http.observe import access_log
from orchestrator.gateway.http.patience import patient_h11
from orchestrator.gateway.http.state import Shared
from orchestrator.gateway.keys import ApiKeys
from orchestrator.gateway.metrics import GatewayMetrics
from orchestrator.gateway.observed import ObservedService
from orchestrator.gateway.realtime.secrets import ClientSecrets
from orchestrator.gateway.riva.server import RivaServer
from orchestrator.gateway.service import TritonService
from orchestrator.gateway.supervise.orders import follow
from orchestrator.gateway.tracing import exporting
from orchestrator.settings import GatewaySettings, Settings

_ENDING_S: Final = 5
"""On top of the time to drain: for telling requests that time is up, and closing."""
_LARGEST_EVENT: Final = 16 * 1024**2
"""Bytes of one message over the WebSocket: OpenAI's clients send up to 15 MiB."""
_LAST_CALL_S: Final = 1.0
"""Between leaving a port to another worker and closing what was accepted at it."""
_ACQUAINTANCE_S: Final = 2.0
_LOOK_S: Final = 0.05
"""How often it is looked whether streams are still open."""


Announce = Callable[[ports.Addresses], None]


@dataclass(frozen=True, slots=True)
class Post:
    """What a supervisor hands to one of its workers.

    Attributes:
        listener: the HTTP port's socket, listening, shared with the other workers.
        orders: a file descriptor; `RETIRE` on it means that another worker has taken over, its end that the
            supervisor is gone.
        secret: what all workers sign with.
    """

    listener: socket.socket
    orders: int
    secret: str


def serve(settings: Settings, url: str | None, announce: Announce, post: Post | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C; then take nothing new, let running requests finish, and return.

    Args:
        settings: of which ``gateway``, ``client`` and ``audio`` count.
        url: Triton's gRPC; ``settings.client.url`` if left out.
        announce: told the addresses once connections are accepted.
        post: for a worker of a supervisor; None: the process serves alone, on ports of its own.

    Raises:
        PortInUseError: a port is taken.
        ConfigurationError: the host, the upstream's address or the TLS files are wrong.
    """
    gateway = settings.gateway
    if post is None:
        ports.check(gateway)
    service = TritonService(settings, url)
    listener = ports.listen(gateway) if post is None else post.listener
    with (
        listener,
        tempfile.TemporaryDirectory(prefix="spark-speech-gateway-") as spool,
        _access_logging(),
        exporting(gateway.otlp_endpoint),
    ):
        asyncio.run(_serve(gateway, service, listener, Path(spool), announce, post))


async def _serve(
    gateway: GatewaySettings,
    service: TritonService,
    listener: socket.socket,
    spool: Path,
    announce: Announce,
    post: Post | None,
) -> None:
    admission = Admission(gateway.max_requests)
    streams = Admission(gateway.max_streams, "streams")
    metrics = GatewayMetrics(lambda: admission.running, lambda: streams.running)
    metrics.watch_upstreams(lambda: service.outstanding)
    keys = ApiKeys.of(gateway)
    secrets = ClientSecrets(_signing_key(gateway, post))
    observed = ObservedService(service, metrics)
    shared = Shared(gateway, observed, admission, metrics, spool, streams, keys, secrets)
    config = uvicorn.Config(
        create_app(shared),
        http=patient_h11(gateway.head_timeout_s),
        ws="websockets-sansio",
        ws_max_size=min(gateway.max_message_bytes, _LARGEST_EVENT),
        ws_per_message_deflate=False,  # audio does not shrink, and compressing takes time
        ws_ping_timeout=None,  # who sends a file at once answers behind it; silence has a limit of its own
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
    riva = RivaServer(gateway, observed, admission, streams, metrics, keys=keys, share_port=post is not None)
    try:
        if post is not None or gateway.upstreams:
            await _acquainted(service)
        if gateway.grpc_port is not None:
            await riva.start(gateway.grpc_port)

        def drain() -> None:
            for each in (admission, streams):
                each.drain(gateway.drain_timeout_s)

        server = _Server(config, drain, streams)
        if post is not None:
            follow(post.orders, lambda: server.retire(riva))
        announce(ports.addresses(gateway, service.host))
        await server.serve([listener])
        drain()  # nothing new where it was not a signal that ended it
        if not server.force_exit:
            await riva.drained()
    finally:
        await riva.stop()
        await service.close()


def _signing_key(gateway: GatewaySettings, post: Post | None) -> str | None:
    """What the secrets for browsers are signed with; None where nobody else has to know them."""
    if gateway.session_key is not None:
        return gateway.session_key.get_secret_value()
    return None if post is None else post.secret


async def _acquainted(service: TritonService) -> None:
    """Connect to the upstream and ask for its models, so that the first request need not; best effort."""
    with suppress(SpeechError, TimeoutError):
        async with asyncio.timeout(_ACQUAINTANCE_S):
            await service.check_ready()


class _Server(uvicorn.Server):
    """uvicorn, whose signals begin the drain and do not come back as the process's death."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None], streams: Admission) -> None:
        super().__init__(config)
        self._drain = drain
        self._streams = streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.shutdown`, which would break off WebSockets: their streams may finish first."""
        self._drain()
        for server in self.servers:
            server.close()
        while self._streams.running and not self.force_exit:  # the admission bounds how long
            await asyncio.sleep(_LOOK_S)
        await super().shutdown(sockets)

    async def retire(self, riva: RivaServer) -> None:
        """Leave the ports to another worker, finish what has been accepted, and end.

        Connections that were accepted a moment ago have not sent their request yet; they get the time to.
        """
        while not self.started:
            await asyncio.sleep(0.01)
        for server in self.servers:
            server.close()
        riva.leave_port()
        await asyncio.sleep(_LAST_CALL_S)
        riva.retire()
        self._drain()
        self.should_exit = True

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


@contextmanager
def _access_logging() -> Iterator[None]:
    """Lines of JSON on standard error, whatever else is logged."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    access_log.addHandler(handler)
    access_log.setLevel(logging.INFO)
    access_log.propagate = False
    server_log = logging.getLogger("uvicorn.error")
    server_log.addFilter(_is_no_clients_text)
    try:
        yield
    finally:
        server_log.removeFilter(_is_no_clients_text)
        access_log.removeHandler(handler)


def _is_no_clients_text(record: logging.LogRecord) -> bool:
    """False for the traceback that uvicorn logs where a client sends text that is no UTF-8."""
    return record.exc_info is None or not isinstance(record.exc_info[1], UnicodeDecodeError)
