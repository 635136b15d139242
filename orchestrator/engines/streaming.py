"""What a streaming engine is: chunks of many live streams in, words so far out. No Triton, no network.

Words are *partial* until an endpoint makes their utterance *final*. A final never changes, and a partial
never repeats a word of a final.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from orchestrator.engines.base import RecognizedWord, Samples
from orchestrator.engines.endpointing import EndpointingOptions


class StreamOptions(BaseModel):
    """What the caller of a stream may ask for; travels as JSON in the OPTIONS tensor of the first chunk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: str | None = None
    """BCP-47 tag; None takes the model's first."""
    sample_rate_hz: int = 16_000
    """What the chunks are recorded at; a rate other than 16 kHz is refused."""
    partials: bool = True
    """Whether partial results are wanted; without them the right context is not decoded."""
    force_end_of_utterance: bool = False
    """As in `ChunkOptions`."""
    endpointing: EndpointingOptions = EndpointingOptions()


class ChunkOptions(BaseModel):
    """What may come with a chunk that is not the first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    force_end_of_utterance: bool = False
    """Make everything up to the end of this chunk final now."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next audio of one stream.

    Attributes:
        stream: what `StreamingRecognizer.open` returned.
        samples: any number of them, also none.
        last: the stream ends with this chunk; its slot is free after the step.
        force_end_of_utterance: as in `ChunkOptions`.
    """

    stream: int
    samples: Samples
    last: bool = False
    force_end_of_utterance: bool = False


@dataclass(frozen=True, slots=True)
class StreamSegment:
    """One utterance as far as it is known.

    Attributes:
        utterance: its number in the stream, from 0; finals come in order, each number once.
        words: times from the stream's first sample.
        final: whether it is the last word on this utterance.
        stability: how likely the words will not change, 0..1; 1 for a final one.
    """

    utterance: int
    words: tuple[RecognizedWord, ...]
    final: bool
    stability: float


@dataclass(frozen=True, slots=True)
class StreamUpdate:
    """What a chunk changed.

    Attributes:
        segments: finals first, then at most one partial. Empty where nothing is new.
        processed_ms: audio that the words cover.
        final_ms: audio before this will never be needed again: all its words are final.
        language: BCP-47 primary tag.
    """

    segments: tuple[StreamSegment, ...]
    processed_ms: int
    final_ms: int
    language: str


@dataclass(frozen=True, slots=True)
class StreamingInfo:
    """What a streaming engine can do. Durations in milliseconds."""

    name: str
    languages: tuple[str, ...]
    chunk_ms: int
    left_ms: int
    right_ms: int
    max_streams: int


class StreamingRecognizer(ABC):
    """A loaded streaming engine. Not thread-safe: one caller steps all streams."""

    info: StreamingInfo

    @abstractmethod
    def open(self, options: StreamOptions | None = None) -> int:
        """Begin a stream and return its number.

        Raises:
            StreamLimitError: ``info.max_streams`` are open.
            UnsupportedLanguageError: the engine does not know the language.
            InvalidRequestError: the sample rate is not 16 kHz.
        """

    @abstractmethod
    def step(self, chunks: Sequence[Chunk]) -> list[StreamUpdate]:
        """Take one chunk each of any of the streams, in one pass of the model, and say what is new.

        A stream may appear once. The same stream with the same chunks gives the same words whatever else is
        in the step.

        Raises:
            InferenceError: the model failed; the streams of this step are closed, the others go on.
            ValueError: a stream is not open, or appears twice (a fault of the caller's code).
        """

    @abstractmethod
    def abort(self, stream: int) -> None:
        """Forget a stream; nothing where it is not open."""

    def close(self) -> None:  # noqa: B027 (most engines have nothing to free)
        """Free what the engine holds; it cannot be used afterwards."""
