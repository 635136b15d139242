"""Who spoke when, and which speaker said each word.

`stitch` and what it needs is numpy only. `load` imports torch and pyannote.audio, on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.diarization.base import Diarization, DiarizationOptions, SpeakerTurn

if TYPE_CHECKING:
    from orchestrator.diarization.pipeline import Diarizer, load

__all__ = ["Diarization", "DiarizationOptions", "Diarizer", "SpeakerTurn", "load"]


def __getattr__(name: str) -> Any:
    if name in ("Diarizer", "load"):
        from orchestrator.diarization import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
