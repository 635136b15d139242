"""Which engine does a job: rules, circuit breakers, and the explanation of a choice. Pure."""

from __future__ import annotations

from orchestrator.client.routing.job import AUTO, Conditions, RouteJob
from orchestrator.client.routing.rules import Candidate, Decision, decide, diarizers
from orchestrator.engines.checks import primary_tag

__all__ = ["AUTO", "Candidate", "Conditions", "Decision", "RouteJob", "decide", "diarizers", "primary_tag"]
