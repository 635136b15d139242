"""The fields of a transcription session: NIM's, and those that OpenAI has beside them.

Types and ranges only; `session` says what each does. A field that is not here is refused by its name. The
defaults are NIM's.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.audio.models import MAX_CHANNELS, RATES_HZ
from orchestrator.gateway.riva.request import DEFAULT_SPEAKERS, MAX_SPEAKERS

OBJECT: Final = "realtime.transcription_session"
AudioFormat = Literal["pcm16", "g711_ulaw", "g711_alaw", "none"]
"""``none``: a file's bytes, whose header says what they are."""
Text = Annotated[str, Field(max_length=1000)]
_MAX_INT: Final = 2**31 - 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Transcription(_Part):
    """What is spoken, and what recognises it; empty: the server chooses."""

    language: Text | None = ""
    model: Text | None = ""
    prompt: Text | None = ""
    # OpenAI's
    delay: Text | None = None
    keywords: list[Text] | None = None
    languages: list[Text] | None = None


class AudioParams(_Part):
    """Of audio without a header; a rate that is not given is the format's own."""

    sample_rate_hz: int | None = Field(default=None, ge=RATES_HZ[0], le=RATES_HZ[1])
    num_channels: int = Field(default=1, ge=1, le=MAX_CHANNELS)


class Recognition(_Part):
    """How the transcript is written."""

    max_alternatives: int = Field(default=1, ge=0, le=_MAX_INT)
    enable_automatic_punctuation: bool = False
    enable_word_time_offsets: bool = False
    enable_profanity_filter: bool = False
    enable_verbatim_transcripts: bool = False
    custom_configuration: Text | dict[Text, Text] | None = None


class Diarization(_Part):
    """Who speaks."""

    enable_speaker_diarization: bool = False
    max_speaker_count: int = Field(default=DEFAULT_SPEAKERS, ge=0, le=MAX_SPEAKERS)


class Boost(_Part):
    """Words to prefer."""

    phrases: list[Text] = []
    boost: float = 0.0


class Boosting(_Part):
    """All of them."""

    enable_word_boosting: bool = False
    word_boosting_list: list[Boost] = []


class Endpointing(_Part):
    """Riva's parameters; 0: the server's own."""

    start_history: int = Field(default=0, ge=0, le=_MAX_INT)
    start_threshold: float = Field(default=0, ge=0, le=1)
    stop_history: int = Field(default=0, ge=0, le=_MAX_INT)
    stop_threshold: float = Field(default=0, ge=0, le=1)
    stop_history_eou: int = Field(default=0, ge=0, le=_MAX_INT)
    stop_threshold_eou: float = Field(default=0, ge=0, le=1)


class TurnDetection(_Part):
    """OpenAI's: when an utterance ends."""

    type: Literal["server_vad"] = "server_vad"
    threshold: float | None = Field(default=None, ge=0, le=1)
    prefix_padding_ms: int | None = Field(default=None, ge=0, le=_MAX_INT)
    silence_duration_ms: int | None = Field(default=None, gt=0, le=60_000)
    create_response: bool | None = None
    interrupt_response: bool | None = None
    idle_timeout_ms: None = None


class SessionFields(_Part):
    """A whole session. What is only read is taken back from callers who send it all."""

    id: Text | None = None
    object: Text | None = None
    expires_at: int | None = None
    client_secret: dict[str, Any] | None = None
    modalities: list[Literal["text"]] = ["text"]
    input_audio_format: AudioFormat = "pcm16"
    input_audio_transcription: Transcription = Transcription()
    input_audio_params: AudioParams = AudioParams()
    recognition_config: Recognition = Recognition()
    speaker_diarization: Diarization = Diarization()
    word_boosting: Boosting = Boosting()
    endpointing_config: Endpointing = Endpointing()
    # OpenAI's
    input_audio_noise_reduction: None = None
    turn_detection: TurnDetection | None = TurnDetection()
    include: list[Text] | None = None


READ_ONLY: Final = ("id", "object", "expires_at", "client_secret")
ONLY_OPENAI: Final = ("input_audio_noise_reduction", "turn_detection", "include")
"""Fields that NIM does not have."""
