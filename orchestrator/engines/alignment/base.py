"""What an aligner takes and gives, and what it needs of a CTC model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from orchestrator.engines.alignment.spelling import Speller
from orchestrator.engines.base import Samples

HEAD_NAME: Final = "aligner_head.safetensors"
"""The file of the CTC head on Moonshine's encoder, the embedded weights."""
Spoken = tuple[Samples, tuple[str, ...]]
"""A recording and the words that are said in it, in order."""


class AlignmentOptions(BaseModel):
    """What a caller may ask of an aligner; travels as JSON in the OPTIONS tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: str | None = None
    """BCP-47 tag of the words; None: one that the aligner knows."""


@dataclass(frozen=True, slots=True)
class AlignedWord:
    """When a word was said.

    Attributes:
        start_ms, end_ms: whole milliseconds from the start of the recording.
        confidence: the model's mean probability of the word's tokens where they were found, 0..1.
        measured: False for a word that could not be found, whose times are spread between its neighbours.
    """

    start_ms: int
    end_ms: int
    confidence: float
    measured: bool


Alignment = tuple[AlignedWord, ...]
"""One entry a word, in order: ``start_ms <= end_ms``, and starts never go back."""


@dataclass(frozen=True, slots=True)
class Emissions:
    """What a CTC model hears in one recording.

    Attributes:
        log_probs: float32 ``[T, V]``, natural logarithms.
        first_ms: where frame 0 begins; below 0 where a frame stands for what is around its middle.
        frame_ms: length of a frame.
    """

    log_probs: NDArray[np.float32]
    first_ms: float
    frame_ms: float


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a word goes beyond the frames of its tokens, in milliseconds: CTC marks a token by a frame or
    two somewhere inside its sound."""

    before_ms: float
    after_ms: float


class EmissionSource(Protocol):
    """A loaded CTC model. Thread-safe."""

    @property
    def speller(self) -> Speller:
        """Gives words the model's tokens."""

    @property
    def blank(self) -> int:
        """The blank's token."""

    @property
    def languages(self) -> tuple[str, ...]:
        """BCP-47 primary tags; empty where the weights do not say."""

    @property
    def reach(self) -> Reach:
        """How far words go beyond their tokens."""

    def emissions(self, batch: Sequence[Samples]) -> list[Emissions]:
        """What is heard in each recording (at least a frame long); the same alone or in any batch.

        Raises:
            InferenceError: the model failed.
        """


class Aligner(ABC):
    """A loaded aligner. Build one with `orchestrator.engines.load_aligner`; thread-safe."""

    languages: tuple[str, ...]
    """BCP-47 primary tags whose words it can find."""

    @abstractmethod
    def align(self, batch: Sequence[Spoken], options: AlignmentOptions | None = None) -> list[Alignment]:
        """When each word of each recording was said; the same alone or in any batch.

        Raises:
            UnsupportedLanguageError: ``options.language`` is not one of `languages`.
            InferenceError: the model failed.
        """

    def close(self) -> None:  # noqa: B027 (most have nothing to free)
        """Free what the aligner holds; it cannot be used afterwards."""
