"""The gRPC port."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection
from riva.client.proto import riva_asr_pb2
from riva.client.proto.riva_asr_pb2_grpc import add_RivaSpeechRecognitionServicer_to_server

from orchestrator.errors import ConfigurationError, PortInUseError
from orchestrator.gateway import ports
from orchestrator.gateway.admission import Admission
from orchestrator.gateway.keys import ApiKeys
from orchestrator.gateway.metrics import GatewayMetrics
from orchestrator.gateway.riva.calls import Authenticate, Calls
from orchestrator.gateway.riva.health import RivaHealth
from orchestrator.gateway.riva.service import RivaService
from orchestrator.gateway.service import SpeechService
from orchestrator.settings import GatewaySettings

RIVA: Final = riva_asr_pb2.DESCRIPTOR.services_by_name["RivaSpeechRecognition"].full_name
HEALTH: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_ENDING_S: Final = 5.0
"""On top of the time to drain: for telling calls that time is up."""
_LAST_WORDS_S: Final = 1.0
"""For statuses that are on their way when the server closes."""
_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # Clients may keep idle connections alive, and those that are gone without a word are found out.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


class RivaServer:
    """Riva's service, health and reflection on one port of the running event loop."""

    def __init__(
        self,
        settings: GatewaySettings,
        service: SpeechService,
        requests: Admission,
        streams: Admission,
        metrics: GatewayMetrics,
        *,
        keys: ApiKeys | None = None,
        share_port: bool = False,
    ) -> None:
        """Prepare.

        Args:
            settings: addresses and limits.
            service: what recognises.
            requests, streams: the bounds of Recognize and StreamingRecognize.
            metrics: where calls are counted.
            keys: who may call, and how much; those of the settings if left out.
            share_port: whether other processes may listen on the port too; else that is an error.
        """
        keys = keys or ApiKeys.of(settings)
        self._settings = settings
        self._admissions = (requests, streams)
        self._stopped = False
        self._leaving: asyncio.Task[None] | None = None
        calls = Calls(metrics)
        size = settings.max_message_bytes
        self._server = grpc.aio.server(
            interceptors=[Authenticate(keys, calls)],
            options=[
                *_OPTIONS,
                ("grpc.so_reuseport", int(share_port)),
                ("grpc.max_receive_message_length", size),
                ("grpc.max_send_message_length", size),
            ],
        )
        riva = RivaService(service, settings, requests, streams, metrics, calls, keys)
        add_RivaSpeechRecognitionServicer_to_server(riva, self._server)
        add_HealthServicer_to_server(RivaHealth(service, requests, (RIVA,)), self._server)
        reflection.enable_server_reflection((RIVA, HEALTH, reflection.SERVICE_NAME), self._server)

    async def start(self, port: int) -> None:
        """Listen and serve.

        Raises:
            PortInUseError: the port is taken.
            ConfigurationError: a TLS file cannot be read.
        """
        host = self._settings.host
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        credentials = self._credentials()
        try:
            if credentials is None:
                self._server.add_insecure_port(address)
            else:
                self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise PortInUseError(
                f"port {port} (gateway.grpc_port) cannot be listened on.",
                host=address,
                fix="stop what uses it, or set gateway.grpc_port to a free port",
            ) from error
        await self._server.start()

    async def drained(self) -> None:
        """Wait until running calls have ended, then close; the admissions are draining already.

        Calls that must end (`Admission.expired`) do so with a status that says why.
        """
        for admission in self._admissions:
            await admission.idle()
        await self.stop()

    def leave_port(self) -> None:
        """Let others have new connections; the ones that are there stay."""
        if self._settings.grpc_port is not None:
            ports.leave(self._settings.grpc_port)

    def retire(self) -> None:
        """Send clients elsewhere with their next call; calls under way go on."""
        if self._leaving is None:
            limit_s = self._settings.drain_timeout_s + _ENDING_S
            self._leaving = asyncio.create_task(self._server.stop(limit_s))

    async def stop(self) -> None:
        """Close now; safe to call again."""
        if not self._stopped:
            self._stopped = True
            await self._server.stop(_LAST_WORDS_S)

    def _credentials(self) -> Any:
        certificate, key = self._settings.tls_certfile, self._settings.tls_keyfile
        if certificate is None or key is None:
            return None
        authority = self._settings.tls_client_ca
        chain, private = _read([certificate, key])
        return grpc.ssl_server_credentials(
            [(private, chain)],
            root_certificates=None if authority is None else _read([authority])[0],
            require_client_auth=authority is not None,
        )


def _read(paths: Sequence[Path]) -> list[bytes]:
    contents = []
    for path in paths:
        try:
            contents.append(path.read_bytes())
        except OSError as error:
            raise ConfigurationError(
                f"{path} of [gateway] cannot be read: {error.strerror}.", fix="check its name.", path=path
            ) from error
    return contents
