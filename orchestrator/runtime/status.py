"""How the server that was started from a home is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from orchestrator.errors import RequestTimeoutError, ServerUnavailableError
from orchestrator.runtime import log, process
from orchestrator.runtime import state as states
from orchestrator.runtime.health import ModelHealth, probe
from orchestrator.runtime.state import ServerState


class Verdict(StrEnum):
    """The answer in one word."""

    HEALTHY = "healthy"
    """All models are ready."""
    STARTING = "starting"
    """Models are loading."""
    DEGRADED = "degraded"
    """A model is not ready, or the server died."""
    UNKNOWN = "unknown"
    """No server was started from here, or it does not answer."""

    @property
    def exit_code(self) -> int:
        """0 healthy, 1 starting or degraded, 2 cannot tell."""
        return {Verdict.HEALTHY: 0, Verdict.UNKNOWN: 2}.get(self, 1)


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """How a server is.

    Attributes:
        verdict: the answer in one word.
        reason: the answer in one sentence where the verdict is not healthy.
        state: what was started, None where nothing was.
        models: every model the server was told to load.
        memory_bytes: what the server and its models' processes hold, shared pages counted once; None where it
            does not run.
    """

    verdict: Verdict
    reason: str | None
    state: ServerState | None
    models: tuple[ModelHealth, ...]
    memory_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """The status as JSON-ready data."""
        state = self.state
        running = state is not None and self.memory_bytes is not None
        return {
            "verdict": str(self.verdict),
            "reason": self.reason,
            "release": None if state is None else state.release,
            "models": [model.to_dict() for model in self.models],
            "pid": state.pid if state is not None and running else None,
            "host": None if state is None else state.host,
            "ports": None
            if state is None
            else {"http": state.http_port, "grpc": state.grpc_port, "metrics": state.metrics_port},
            "uptime_s": round(state.uptime_s, 1) if state is not None and running else None,
            "memory_bytes": self.memory_bytes,
            "triton": None if state is None else state.triton,
            "log": None if state is None else state.log,
        }


def status(home: Path, *, timeout_s: float = 5.0) -> ServerStatus:
    """The server's status; reads only, so what a crashed one left stays for `clean_up`."""
    state = states.read(home)
    if state is None:
        return ServerStatus(Verdict.UNKNOWN, f"no server was started from {home}", None, (), None)
    if state.process() is None:
        cause = log.last_error(log.tail(Path(state.log)))
        reason = "the server died" if cause is None else f"the server died: {cause}"
        return ServerStatus(Verdict.DEGRADED, reason, state, (), None)
    memory = _memory_bytes(state)
    try:
        found = {
            model.name: model for model in probe(state.host, state.http_port, timeout_s=timeout_s).models
        }
    except (ServerUnavailableError, RequestTimeoutError) as error:
        return _silent(state, memory, error.message)
    models = tuple(
        found.get(name, ModelHealth(name, "", False, "the server does not know it")) for name in state.models
    )
    waiting = [model for model in models if not model.ready]
    if not waiting:
        return ServerStatus(Verdict.HEALTHY, None, state, models, memory)
    reason = "; ".join(f"{model.name}: {model.reason}" for model in waiting)
    return ServerStatus(Verdict.DEGRADED, reason, state, models, memory)


def _silent(state: ServerState, memory: int, reason: str) -> ServerStatus:
    """A server that lives but does not answer: it opens its ports when all models are loaded."""
    facts = log.facts(log.tail(Path(state.log)))
    models = tuple(
        ModelHealth(name, "", False, facts.reasons.get(name, str(phase)))
        for name in state.models
        for phase in [facts.phases.get(name, log.ModelPhase.LOADING)]
    )
    phases = set(facts.phases.values())
    if log.ModelPhase.LOADING in phases or not phases:
        return ServerStatus(Verdict.STARTING, "models are loading", state, models, memory)
    return ServerStatus(Verdict.UNKNOWN, reason, state, models, memory)


def _memory_bytes(state: ServerState) -> int:
    total = 0
    for member in process.members(state):
        try:
            total += member.memory_full_info().pss
        except (psutil.Error, AttributeError):
            continue
    return total
