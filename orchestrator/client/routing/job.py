"""What a router is told: the job, and how the engines are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from orchestrator.contract import Task

AUTO: Final = "auto"
"""The engine name that leaves the choice to the router."""


@dataclass(frozen=True, slots=True)
class RouteJob:
    """What a recording or a live stream needs.

    Attributes:
        task: `Task.RECOGNIZE` or `Task.STREAM`.
        language: BCP-47 tag; None: not known.
        confidence: how sure a language is that was found out, 0..1; None where it was given.
        engine: `AUTO`, or the name of an engine or of a model.
        duration_s: the recording's length in seconds; None for a live stream.
        diarize: its speakers are to be named.
    """

    task: Task = Task.RECOGNIZE
    language: str | None = None
    confidence: float | None = None
    engine: str = AUTO
    duration_s: float | None = None
    diarize: bool = False


@dataclass(frozen=True, slots=True)
class Conditions:
    """How the engines are at the moment.

    Attributes:
        blocked: engines whose circuit breaker is open, and the seconds until one request probes them.
        load: by engine: work under way over the work that it can hold.
        away: what engines could not be asked what they offer, and why.
    """

    blocked: Mapping[str, float] = field(default_factory=dict)
    load: Mapping[str, float] = field(default_factory=dict)
    away: Mapping[str, str] = field(default_factory=dict)
