"""What a diarizer returns, free of torch and pyannote so that the client can import it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from orchestrator.errors import ConfigurationError

LOCAL_WINDOW_S: Final = 10.0
"""The most audio that ``mode="local"`` takes, in seconds: one window of the segmentation network."""


class DiarizationOptions(BaseModel):
    """What a caller may ask of the diarizer; travels as JSON in the OPTIONS tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_speakers: int | None = Field(default=None, ge=1)
    min_speakers: int | None = Field(default=None, ge=1)
    max_speakers: int | None = Field(default=None, ge=1)
    mode: Literal["recording", "local"] = "recording"
    """``recording``: speakers are clustered over the whole. ``local``: one window of at most
    `LOCAL_WINDOW_S`, whose speakers the network tells apart by itself: a step of a live stream."""

    def check(self) -> None:
        """Check the bounds against one another; ``num_speakers`` must lie within the other two.

        Raises:
            ConfigurationError: they contradict one another, or are given for a local window.
        """
        bounds = (self.min_speakers, self.num_speakers, self.max_speakers)
        if self.mode == "local" and any(bound is not None for bound in bounds):
            raise ConfigurationError(
                'mode "local" takes no number of speakers: only the network tells them apart',
                fix="leave num_speakers, min_speakers and max_speakers out",
            )
        rising = [
            (name, value)
            for name, value in (
                ("min_speakers", self.min_speakers),
                ("num_speakers", self.num_speakers),
                ("max_speakers", self.max_speakers),
            )
            if value is not None
        ]
        for (low, least), (high, most) in itertools.pairwise(rising):
            if least > most:
                raise ConfigurationError(
                    f"{low} is {least}, more than {high}, which is {most}",
                    fix="give num_speakers alone, or bounds with min_speakers <= max_speakers",
                )


@dataclass(frozen=True, slots=True)
class SpeakerTurn:
    """One stretch of one speaker; ``speaker`` counts from 0 in order of first appearance."""

    start_ms: int
    end_ms: int
    speaker: int


@dataclass(frozen=True, slots=True)
class Diarization:
    """Who spoke when.

    Attributes:
        turns: by start; turns of different speakers may overlap.
        exclusive: by start; at most one speaker at a time (for labelling words).
        embeddings: float32 ``[S, D]``, one row a speaker; a row may be NaN where a speaker's speech was too
            short to embed.
    """

    turns: tuple[SpeakerTurn, ...]
    exclusive: tuple[SpeakerTurn, ...]
    embeddings: NDArray[np.float32]

    @property
    def num_speakers(self) -> int:
        """How many speakers there are."""
        return int(self.embeddings.shape[0])
