"""Settings of routing, and of the engines that live outside Triton."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

SECTION: Final = ConfigDict(
    # Inputs stay out of error texts: they may be secrets.
    frozen=True,
    extra="forbid",
    validate_default=True,
    hide_input_in_errors=True,
    allow_inf_nan=False,
)
"""What all sections have in common."""
ANY_LANGUAGE: Final = "*"
"""In a rule: every language that is known."""
UNKNOWN_LANGUAGE: Final = "unknown"
"""In a rule: a recording whose language was neither given nor found out."""
_TAG: Final = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*", re.ASCII)


def _language(tag: str) -> str:
    if tag != ANY_LANGUAGE and not _TAG.fullmatch(tag):
        raise ValueError(f"must be a language tag such as kn-IN, {UNKNOWN_LANGUAGE!r} or {ANY_LANGUAGE!r}")
    return tag


class _Section(BaseModel):
    model_config = SECTION


class RouteRule(_Section):
    """For which jobs, and which engines do them, in order."""

    language: Annotated[str, AfterValidator(_language)] = ANY_LANGUAGE
    """A BCP-47 tag: ``en`` stands for ``en-US`` too, ``kn-IN`` for ``kn`` but not for ``kn-US``."""
    task: Literal["any", "offline", "streaming", "diarize"] = "any"
    """``diarize``: a recording or a stream whose speakers are to be named."""
    min_duration_s: float = Field(default=0.0, ge=0)
    max_duration_s: float | None = Field(default=None, gt=0)
    """Of a recording; a live stream has no length, so that a rule with a bound is not for it."""
    engines: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """Names of engines or models; ``whisper`` stands for ``whisper_trt`` and its other variants too."""
    order: Literal["listed", "cost", "load"] = "listed"
    """Which of them comes first."""

    @model_validator(mode="after")
    def _bounds(self) -> RouteRule:
        if self.max_duration_s is not None and self.max_duration_s <= self.min_duration_s:
            raise ValueError("max_duration_s must be more than min_duration_s")
        return self


class RoutingSettings(_Section):
    """Which engine does a job, and who stands in for it."""

    rules: tuple[RouteRule, ...] = (
        RouteRule(language="kn-IN", engines=("sarvam",)),
        RouteRule(language="en", engines=("parakeet", "moonshine")),
        RouteRule(language=ANY_LANGUAGE, engines=("whisper",)),
    )
    """The first that is for the job counts."""
    otherwise: Literal["any", "none"] = "any"
    """After a rule's engines, and where there is no rule: ``any`` engine that can do it, in the order of the
    models' ranks, but none that sends audio to somebody else's service."""
    detect: bool = True
    """Ask an engine that can for the language of a recording whose language was not given."""
    detect_threshold: float = Field(default=0.5, ge=0, le=1)
    """Less sure than this, a language is unknown."""
    detect_s: float = Field(default=30.0, gt=0, le=30)
    """How much audio it is found out from."""
    align: bool = True
    """Measure word times with the server's aligner, if it has one, where the engine has none."""
    align_s: float = Field(default=30.0, gt=0)
    """For one window; what takes longer keeps its estimated times."""
    max_cost: float | None = Field(default=None, ge=0)
    """Engines that cost more for an hour of audio are left out."""
    costs: dict[str, Annotated[float, Field(ge=0)]] = {}
    """What an hour of audio costs, by engine, in any currency; what is not named costs nothing."""
    failures: int = Field(default=3, ge=1)
    """In a row, after which an engine is left alone as long as another can do the work."""
    open_s: float = Field(default=15.0, gt=0)
    """For how long at first; twice as long after each probe that fails."""
    longest_open_s: float = Field(default=300.0, gt=0)

    @model_validator(mode="after")
    def _longest(self) -> RoutingSettings:
        if self.longest_open_s < self.open_s:
            raise ValueError("longest_open_s must be at least open_s")
        return self


class WhisperSettings(_Section):
    """How the Whisper engines decode; `build` writes it into the release."""

    compute_type: Literal["auto", "float32", "float16", "bfloat16", "int8", "int8_float16"] = "auto"
    """Of whisper_ct2; ``auto``: float16 on a GPU, float32 on a CPU. Compute capability 12.x takes no int8."""
    beam_size: int = Field(default=5, ge=1, le=20)
    """Texts that are followed at once; 1: the likeliest token is taken each time."""
    batch_size: int = Field(default=16, ge=1, le=256)
    """Windows of 30 s that are decoded at once."""
    temperatures: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """What texts are drawn at for a window whose likeliest texts are not sound. Drawn texts may differ each
    time."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads of one model; None: the library's own number."""
    compile: bool | None = None
    """Whether whisper_torch compiles its layers with torch.compile; None: on a GPU."""


class RivaSettings(_Section):
    """A Riva or NIM server."""

    url: str | None = None
    """``host:port`` of its gRPC, ``grpcs://host:port`` with TLS; None: there is none."""
    model: str = ""
    """One of its models; empty: all that it lists."""
    tls_ca: Path | None = None
    """The certificates that its own must be signed by; None: those of the gRPC library."""
    metadata: dict[str, SecretStr] = {}
    """gRPC headers of each call, such as a hosted service's ``authorization`` and ``function-id``."""
    punctuation: bool = True
    verbatim: bool = False
    """False: numbers and dates are written as digits, where the server can."""
    boosted_words: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    boost: float = Field(default=20.0, ge=-100, le=100)
    """How much more likely they are; negative: less. Riva recommends 20 to 100."""
    max_speakers: int = Field(default=8, ge=1, le=100)
    """Told apart where the caller sets no bound."""
    window_s: float = Field(default=30.0, gt=2)
    """The longest audio of one request."""
    rank: int = 100
    max_concurrency: int = Field(default=16, ge=1)
    max_message_bytes: int = Field(default=64 * 1024**2, ge=1024**2, le=2**31 - 1)
    """What the server takes in one message."""


class SarvamSettings(_Section):
    """Sarvam's speech-to-text: Kannada and other Indian languages."""

    api_key: SecretStr | None = None
    """None: the engine is not there."""
    url: str = "https://api.sarvam.ai"
    model: str = "saaras:v3"
    mode: Literal["transcribe", "verbatim", "translit", "codemix"] = "transcribe"
    max_request_s: float = Field(default=28.0, gt=2, le=30)
    """Audio of one request; the service takes less than 30 seconds, longer recordings are cut."""
    timeout_s: float = Field(default=60.0, gt=0)
    """For one request."""
    retries: int = Field(default=4, ge=0)
    longest_wait_s: float = Field(default=60.0, ge=0)
    """The longest ``Retry-After`` that is waited for."""
    requests_per_minute: float = Field(default=60.0, gt=0)
    """Of the account's plan; no more are sent."""
    max_concurrency: int = Field(default=4, ge=1)
    keyterms: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(
        default=(), max_length=50
    )
    """Words to listen for; the model saaras:v4 alone takes them."""
    proxy: str | None = None
    """An HTTP proxy to reach the service through; the environment's are not used."""

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or "@" in parts.netloc:
            raise ValueError("must be an address such as https://api.sarvam.ai")
        return url.rstrip("/")
