"""What a caller may ask of a transcription."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from orchestrator.client.routing import AUTO
from orchestrator.errors import ConfigurationError

Speakers = Annotated[int | None, Field(ge=1)]


class TranscribeArgs(TypedDict, total=False):
    """The keyword arguments of ``transcribe``; all may be left out."""

    sample_rate: int | None
    """Of an array, in Hz; 16000 if left out. Files carry their own."""
    language: str | None
    """BCP-47 tag (``en``, ``de-CH``); None lets the engine decide."""
    engine: str
    """The name of an engine or a model, or ``auto``."""
    model_version: str
    """One version of the recogniser; empty for the one the server prefers."""
    diarize: bool
    """Find out who said what; True unless said otherwise."""
    num_speakers: int | None
    """How many speakers there are, where that is known."""
    min_speakers: int | None
    max_speakers: int | None
    channels: Literal["mix", "separate"]
    """``mix``: all channels are one recording. ``separate``: each channel is one speaker's."""
    align: bool | None
    """Measure word times with a server's aligner where the engine has none; None: as the setting
    ``routing.align`` says."""
    timeout: float | None
    """For everything together, in seconds; None: only each request has a limit."""


class TranscribeOptions(BaseModel):
    """`TranscribeArgs` with defaults, checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_rate: int | None = Field(default=None, gt=0)
    language: str | None = Field(default=None, min_length=1)
    engine: str = Field(default=AUTO, min_length=1)
    model_version: str = Field(default="", pattern=r"^[0-9]*$")
    diarize: bool = True
    num_speakers: Speakers = None
    min_speakers: Speakers = None
    max_speakers: Speakers = None
    channels: Literal["mix", "separate"] = "mix"
    align: bool | None = None
    timeout: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> TranscribeOptions:
        low, high = self.min_speakers or 1, self.max_speakers
        if high is not None and low > high:
            raise ValueError(f"min_speakers {low} is more than max_speakers {high}")
        if self.num_speakers is not None and not low <= self.num_speakers <= (high or self.num_speakers):
            raise ValueError(
                f"num_speakers {self.num_speakers} is not within min_speakers {low} and "
                f"max_speakers {high or 'any'}"
            )
        return self

    @classmethod
    def parse(cls, args: TranscribeArgs | dict[str, Any]) -> TranscribeOptions:
        """Check ``args``.

        Raises:
            ConfigurationError: an argument is unknown or outside its range; the message names it.
        """
        try:
            return cls.model_validate(args)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            reason = first["msg"].removeprefix("Value error, ")
            if not name:
                raise ConfigurationError(f"{reason}.", fix="give numbers that fit each other.") from error
            if first["type"] == "extra_forbidden":
                raise ConfigurationError(
                    f"transcribe has no argument {name}.",
                    fix=f"the arguments are: {', '.join(cls.model_fields)}.",
                ) from error
            raise ConfigurationError(
                f"transcribe cannot work with this {name}: {reason}.", fix="correct it, or leave it out."
            ) from error
