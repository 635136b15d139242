"""Asking a local tritonserver how it is, over HTTP."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import RequestTimeoutError, ServerUnavailableError
from orchestrator.runtime.log import explain
from orchestrator.runtime.ports import reachable_host


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """One model on the server: ``ready``, or the reason why it is not."""

    name: str
    version: str
    ready: bool
    reason: str | None

    def to_dict(self) -> dict[str, Any]:
        """The model as JSON-ready data."""
        return {"name": self.name, "version": self.version, "ready": self.ready, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """A server that answers."""

    ready: bool
    models: tuple[ModelHealth, ...]


def probe(host: str, http_port: int, *, timeout_s: float = 5.0) -> ServerHealth:
    """Readiness and the state of every model that was ever asked for.

    Raises:
        ServerUnavailableError: nothing answers there, or something that is no tritonserver.
        RequestTimeoutError: no answer in time.
    """
    where = f"{reachable_host(host)}:{http_port}"
    connection = http.client.HTTPConnection(reachable_host(host), http_port, timeout=timeout_s)
    try:
        ready, _ = _ask(connection, "GET", "/v2/health/ready")
        status, body = _ask(connection, "POST", "/v2/repository/index")
        rows = json.loads(body) if status == http.client.OK else []
        return ServerHealth(ready == http.client.OK, tuple(_model(row) for row in rows if row.get("state")))
    except TimeoutError as error:
        raise RequestTimeoutError(
            f"the server did not answer within {timeout_s:g} s",
            host=where,
            fix="try again; if it stays so, restart it: `spark-speech down`, `spark-speech up`",
        ) from error
    except (OSError, http.client.HTTPException, ValueError, AttributeError, TypeError) as error:
        raise ServerUnavailableError(
            f"no tritonserver answers: {error}", host=where, fix="start one with `spark-speech up`"
        ) from error
    finally:
        connection.close()


def _ask(connection: http.client.HTTPConnection, method: str, path: str) -> tuple[int, bytes]:
    connection.request(method, path)
    response = connection.getresponse()
    return response.status, response.read()


def _model(row: dict[str, str]) -> ModelHealth:
    ready = row["state"] == "READY"
    reason = None if ready else explain(row.get("reason", "")) or row["state"].lower()
    return ModelHealth(row.get("name", ""), row.get("version", ""), ready, reason)
