"""Transcripts: who said what, when, and the formats to write it in."""

from orchestrator.transcript.models import SCHEMA_VERSION, Segment, Transcript, Turn, Word

__all__ = ["SCHEMA_VERSION", "Segment", "Transcript", "Turn", "Word"]
