"""The process that serves under a supervisor: ``main`` is all that it runs."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
from pathlib import Path

from orchestrator.errors import ConfigurationError, SpeechError
from orchestrator.gateway import needs
from orchestrator.gateway.ports import Addresses
from orchestrator.gateway.supervise.orders import Brief, Report
from orchestrator.settings import GatewaySettings, KeySettings, Settings, resolve

_ORDERS = 0
"""Standard input."""


def main() -> None:
    """Read the brief, serve until told otherwise, and end the process."""
    brief = Brief.model_validate_json(_line(_ORDERS))
    level = {0: logging.WARNING, 1: logging.INFO}.get(brief.verbosity, logging.DEBUG)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("orchestrator").setLevel(level)
    try:
        _serve(brief)
    except SpeechError as error:
        _report(brief, Report(error=error.to_dict()))
        sys.exit(error.exit_code)


def _serve(brief: Brief) -> None:
    config_file = None if brief.config_file is None else Path(brief.config_file)
    settings = share_of(resolve(config_file, brief.overrides).settings, brief)
    with needs.explained():
        from orchestrator.gateway.server import Post, serve

    def announce(at: Addresses) -> None:
        _report(brief, Report(addresses=at))

    serve(settings, brief.url, announce, Post(socket.socket(fileno=brief.listener), _ORDERS, brief.secret))


def share_of(settings: Settings, brief: Brief) -> Settings:
    """The settings of one of several workers: its part of the limits, rounded up.

    Raises:
        ConfigurationError: they want other ports than the supervisor listens on.
    """
    gateway = settings.gateway
    wanted = (gateway.host, gateway.http_port, gateway.grpc_port)
    if wanted != (brief.host, brief.http_port, brief.grpc_port):
        raise ConfigurationError(
            "gateway.host, http_port or grpc_port has changed, and ports cannot be exchanged",
            fix="start the gateway anew.",
        )
    keys = {name: key.model_copy(update=_part(key, brief.workers)) for name, key in gateway.keys.items()}
    part = _part(gateway, brief.workers) | {"keys": keys}
    return settings.model_copy(update={"gateway": gateway.model_copy(update=part)})


def _part(limits: GatewaySettings | KeySettings, workers: int) -> dict[str, int]:
    given = {"max_requests": limits.max_requests, "max_streams": limits.max_streams}
    return {name: math.ceil(limit / workers) for name, limit in given.items() if limit is not None}


def _line(descriptor: int) -> bytes:
    """One line, and not a byte more: what follows is an order."""
    read = bytearray()
    while (byte := os.read(descriptor, 1)) not in (b"", b"\n"):
        read += byte
    return bytes(read)


def _report(brief: Brief, report: Report) -> None:
    os.write(brief.report, report.model_dump_json().encode() + b"\n")
