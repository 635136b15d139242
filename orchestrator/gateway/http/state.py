"""What the HTTP side carries: the parts that requests share, and what is noted of each request."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fastapi import Request

from orchestrator.gateway.admission import Admission
from orchestrator.gateway.keys import ANYBODY, ApiKeys, Caller
from orchestrator.gateway.metrics import GatewayMetrics
from orchestrator.gateway.realtime.secrets import ClientSecrets
from orchestrator.gateway.service import SpeechService
from orchestrator.settings import GatewaySettings

NOTE: Final = "spark_speech.note"
"""The key of a request's `Note` in its ASGI scope."""
CALLER: Final = "spark_speech.caller"
"""The key of the `Caller` who makes it."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all requests share.

    Attributes:
        settings: of the gateway.
        service: what recognises.
        admission: bounds transcriptions.
        metrics: what is counted.
        spool: the folder that uploads are kept in while they are needed.
        streams: bounds live streams.
        keys: who may use the service; one object for all protocols.
        secrets: stand for a key where a browser can send no header.
    """

    settings: GatewaySettings
    service: SpeechService
    admission: Admission
    metrics: GatewayMetrics
    spool: Path
    streams: Admission
    keys: ApiKeys
    secrets: ClientSecrets = field(default_factory=ClientSecrets)


@dataclass(slots=True)
class Note:
    """What the log and the metrics say of a request beside its status.

    Attributes:
        error: the code of the error it ended in.
        bytes_in: of the recording.
        audio_s: its duration in seconds.
        work_s: how long the transcription took, in seconds.
    """

    error: str | None = None
    bytes_in: int | None = None
    audio_s: float | None = None
    work_s: float | None = None


def shared_of(request: Request) -> Shared:
    """The gateway's parts."""
    shared: Shared = request.app.state.shared
    return shared


def note_of(request: Request) -> Note:
    """The request's note."""
    note: Note = request.scope[NOTE]
    return note


def caller_of(request: Request) -> Caller:
    """Who makes the request."""
    caller: Caller = request.scope.get(CALLER, ANYBODY)
    return caller
