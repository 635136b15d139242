"""What a caller may ask of a live stream."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.audio.models import RATES_HZ
from orchestrator.client.routing import AUTO
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.endpointing import EndpointingOptions
from orchestrator.engines.streaming import StreamOptions
from orchestrator.errors import ConfigurationError

Pace = Literal["realtime", "fast"]


class StreamArgs(TypedDict, total=False):
    """The keyword arguments of ``stream``; all may be left out."""

    language: str | None
    """BCP-47 tag (``en``, ``de-CH``); None takes the model's first."""
    engine: str
    """The name of an engine or a model that can stream, or ``auto``."""
    model_version: str
    """One version of the model; empty for the one the server prefers."""
    partials: bool
    """Whether `Partial` events are wanted; True unless said otherwise."""
    caught_up: bool
    """Whether `CaughtUp` events are wanted; False unless said otherwise."""
    endpointing: EndpointingOptions | dict[str, Any]
    """When an utterance begins and ends: `EndpointingOptions`, or some of its fields."""
    diarize: bool | None
    """Name the speakers. None: if the server has a diarizer."""
    max_speakers: int | None
    """The most there may be: with as many known, a voice takes the nearest of them."""
    relabel: bool
    """Find the speakers once more in the whole, when the stream is over; its audio is kept until then."""
    sample_rate: int | None
    """Of bytes and arrays, in Hz; 16000 if left out. Files and microphones know their own."""
    pace: Pace
    """Of a file: ``realtime`` as if it were spoken now, ``fast`` as the server takes it."""
    chunk_ms: int | None
    """Audio of one request; the model's own step if left out."""
    timeout: float | None
    """Seconds for the answer to one chunk; ``settings.client.stream_timeout_s`` if left out."""


class StreamRequest(BaseModel):
    """`StreamArgs` with defaults, checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: str | None = Field(default=None, min_length=1)
    engine: str = Field(default=AUTO, min_length=1)
    model_version: str = Field(default="", pattern=r"^[0-9]*$")
    partials: bool = True
    caught_up: bool = False
    endpointing: EndpointingOptions = EndpointingOptions()
    diarize: bool | None = None
    max_speakers: int | None = Field(default=None, ge=1)
    relabel: bool = False
    sample_rate: int | None = Field(default=None, ge=RATES_HZ[0], le=RATES_HZ[1])
    pace: Pace = "realtime"
    chunk_ms: int | None = Field(default=None, ge=10, le=10_000)
    timeout: float | None = Field(default=None, gt=0)

    @property
    def rate_hz(self) -> int:
        """Of bytes and arrays."""
        return self.sample_rate or SAMPLE_RATE_HZ

    def wire(self, *, force_end_of_utterance: bool = False) -> StreamOptions:
        """What the model is told with the first chunk of a sequence."""
        return StreamOptions(
            language=self.language,
            partials=self.partials,
            endpointing=self.endpointing,
            force_end_of_utterance=force_end_of_utterance,
        )

    @classmethod
    def parse(cls, args: StreamArgs | dict[str, Any]) -> StreamRequest:
        """Check ``args``.

        Raises:
            ConfigurationError: an argument is unknown or outside its range; the message names it.
        """
        try:
            return cls.model_validate(args)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                known = cls if len(first["loc"]) == 1 else EndpointingOptions
                raise ConfigurationError(
                    f"stream has no argument {name}.",
                    fix=f"the arguments are: {', '.join(known.model_fields)}.",
                ) from error
            reason = first["msg"].removeprefix("Value error, ")
            raise ConfigurationError(
                f"stream cannot work with this {name}: {reason}.", fix="correct it, or leave it out."
            ) from error
