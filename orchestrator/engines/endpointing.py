"""When an utterance begins and ends: Riva's endpointing parameters."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class EndpointingOptions(BaseModel):
    """Riva's ``EndpointingConfig`` under its own names and defaults, and what this project adds.

    Histories are looked at frame by frame; a threshold is the share of a history's frames, in 0..1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_history_ms: int = Field(default=300, gt=0)
    """The window in which speech is looked for."""
    start_threshold: float = Field(default=0.2, ge=0, le=1)
    """An utterance begins when more than this share of the window is speech."""
    stop_history_ms: int = Field(default=800, gt=0)
    """The window in which silence is looked for."""
    stop_threshold: float = Field(default=0.98, ge=0, le=1)
    """An utterance ends when more than this share of the window is not speech."""
    stop_history_eou_ms: int | None = Field(default=None, gt=0)
    """A shorter window after which the partial result is marked stable (stability 1); None: no such mark."""
    stop_threshold_eou: float | None = Field(default=None, ge=0, le=1)
    speech_from: Literal["tokens", "vad"] = "tokens"
    """What counts as speech: frames inside a token's span, or a voice activity detector's opinion."""
    max_utterance_s: float = Field(default=30.0, ge=1, le=120)
    """An utterance that lasts longer is ended at the last word boundary."""
