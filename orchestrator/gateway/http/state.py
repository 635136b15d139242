"""What the HTTP side carries: the parts that requests share, and what is noted of each request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import Request

from orchestrator.gateway.admission import Admission
from orchestrator.gateway.metrics import GatewayMetrics
from orchestrator.gateway.service import SpeechService
from orchestrator.settings import GatewaySettings

NOTE: Final = "spark_speech.note"
"""The key of a request's `Note` in its ASGI scope."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all requests share; ``spool`` is the folder that uploads are kept in while they are needed."""

    settings: GatewaySettings
    service: SpeechService
    admission: Admission
    metrics: GatewayMetrics
    spool: Path


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
