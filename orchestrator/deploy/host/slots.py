"""A slot as a place: its ports, whether what runs in it is ready, how many live streams it has."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

from orchestrator.deploy.host.layout import Layout
from orchestrator.deploy.host.state import SLOTS

PROBE_S: Final = 5.0
LOOPBACK: Final = "127.0.0.1"
_ANY: Final = ("0.0.0.0", "::", "")
_STEP: Final = 100
"""Between the slots' ports."""
_BLUE: Final = {
    "server.http_port": 18000,
    "server.grpc_port": 18001,
    "server.metrics_port": 18002,
    "gateway.http_port": 19000,
    "gateway.grpc_port": 15051,
}
_FALSE: Final = ("", "null", "none", '""')


@dataclass(frozen=True)
class Ports:
    """Where a slot's services listen."""

    host: str
    triton_http: int
    triton_grpc: int
    triton_metrics: int
    gateway_host: str
    gateway_http: int
    riva: int | None
    tls: bool
    """Of the gateway."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True)
class Health:
    """What a slot's services answer; ``models`` are name, ready and reason."""

    triton: bool
    gateway: bool
    models: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether a request sent to the slot now would be answered."""
        return self.triton and self.gateway and all(model["ready"] for model in self.models)


class Probe(Protocol):
    """What a rollout needs to know of the services themselves."""

    def health(self, slot: str) -> Health:
        """What the slot's services answer."""

    def streams(self, slot: str) -> int | None:
        """Live streams open in the slot's models; None where they do not tell."""


class HttpProbe:
    """`Probe` over HTTP."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def health(self, slot: str) -> Health:
        """What the slot's services answer; nothing that answers counts as not ready."""
        at = ports(self._layout, slot)
        triton = _get(at.host, at.triton_http, "/v2/health/ready")[0] == http.client.OK
        status, body = _get(at.host, at.triton_http, "/v2/repository/index", method="POST")
        models = _models(body) if status == http.client.OK else []
        gateway = _get(at.gateway_host, at.gateway_http, "/v1/health/ready", tls=at.tls)[0]
        return Health(triton, gateway == http.client.OK, models)

    def streams(self, slot: str) -> int | None:
        """Live streams open in the slot's models; None where they do not tell."""
        at = ports(self._layout, slot)
        status, body = _get(at.host, at.triton_metrics, "/metrics")
        return parse_streams(body.decode("utf-8", "replace")) if status == http.client.OK else None


def ports(layout: Layout, slot: str) -> Ports:
    """The slot's ports: those of its settings, and where they say nothing, the standard ones."""
    path = layout.slot(slot) / "spark-speech.toml"
    try:
        said = parse_settings(path.read_text(encoding="utf-8"))
    except OSError:
        said = {}
    step = _STEP * SLOTS.index(slot)

    def port(key: str) -> int:
        value = said.get(key, "")
        return int(value) if value.isdigit() else _BLUE[key] + step

    def host(key: str) -> str:
        value = said.get(key, "").strip("\"'")
        return LOOPBACK if value in _ANY else value

    return Ports(
        host("server.host"),
        port("server.http_port"),
        port("server.grpc_port"),
        port("server.metrics_port"),
        host("gateway.host"),
        port("gateway.http_port"),
        port("gateway.grpc_port"),
        said.get("gateway.tls_certfile", "") not in _FALSE,
    )


def parse_settings(text: str) -> dict[str, str]:
    """``section.key`` to the raw value, of the lines ``key = value`` below ``[section]``.

    Python 3.10 has no TOML reader; the file is rendered with one plain value a line.
    """
    found = {}
    section = ""
    for line in text.splitlines():
        stripped = line.split(" #")[0].strip()
        if stripped.startswith("[") and stripped.endswith("]"):
            section = stripped.strip("[]").strip()
        elif "=" in stripped and not stripped.startswith("#"):
            key, value = stripped.split("=", 1)
            found[f"{section}.{key.strip()}"] = value.strip()
    return found


def parse_streams(text: str) -> int | None:
    """The sum of ``speech_streams_open`` on a metrics page; None where no model has it."""
    values = [
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith(("speech_streams_open{", "speech_streams_open "))
    ]
    return round(sum(values)) if values else None


def _models(body: bytes) -> list[dict[str, Any]]:
    try:
        rows = json.loads(body)
        return [
            {"name": row["name"], "ready": row["state"] == "READY", "reason": row.get("reason", "")}
            for row in rows
            if row.get("state")
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []


def _get(host: str, port: int, path: str, *, method: str = "GET", tls: bool = False) -> tuple[int, bytes]:
    """Status and body; 0 where nothing answers."""
    connection: http.client.HTTPConnection
    if tls:
        # The certificate is for the name that clients use, not for this address.
        trusting = ssl.create_default_context()
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=PROBE_S, context=trusting)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=PROBE_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
