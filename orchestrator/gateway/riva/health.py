"""``grpc.health.v1.Health``: serving when a recording sent now can be recognised."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

from orchestrator.errors import SpeechError
from orchestrator.gateway.admission import Admission
from orchestrator.gateway.service import SpeechService

_POLL_S: Final = 5.0
"""How often a watcher's news is looked for."""


class RivaHealth(HealthServicer):  # type: ignore[misc]
    """Asks the upstream at each check, so that the answer is never older than the question."""

    def __init__(self, service: SpeechService, requests: Admission, names: tuple[str, ...]) -> None:
        """``names`` are the services that there are; the empty name means all of them."""
        self._service = service
        self._requests = requests
        self._names = ("", *names)

    async def Check(self, request: HealthCheckRequest, context: Any) -> HealthCheckResponse:  # noqa: N802
        """The state now."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service.")
        return HealthCheckResponse(status=await self._status())

    async def Watch(self, request: HealthCheckRequest, context: Any) -> None:  # noqa: N802
        """The state now, and each other state from then on until the gateway stops."""
        told = None
        while not self._requests.draining or told is None:
            known = request.service in self._names
            status = await self._status() if known else HealthCheckResponse.SERVICE_UNKNOWN
            if status != told:
                await context.write(HealthCheckResponse(status=status))
                told = status
            await asyncio.sleep(_POLL_S)

    async def _status(self) -> int:
        if self._requests.draining:
            return int(HealthCheckResponse.NOT_SERVING)
        try:
            await self._service.check_ready()
        except SpeechError:
            return int(HealthCheckResponse.NOT_SERVING)
        return int(HealthCheckResponse.SERVING)
