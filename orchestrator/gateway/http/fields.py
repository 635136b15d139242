"""The fields of a transcription request: each honoured, or refused by its name.

`docs/gateway.md` holds the table for readers. A field that is accepted without effect could not have changed
the result: ``temperature=0`` is what the recognisers do (they take the best path), and
``chunking_strategy=auto`` is how long recordings are cut.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar, get_args

from orchestrator.client.routing import AUTO
from orchestrator.gateway.http.errors import ApiError, refuse
from orchestrator.gateway.service import Job, Speakers

ResponseFormat = Literal["json", "text", "srt", "vtt", "verbose_json", "diarized_json"]
Granularity = Literal["word", "segment"]

RESPONSE_FORMATS: Final[tuple[str, ...]] = get_args(ResponseFormat)
OPENAI_MODELS: Final = (
    "whisper-1",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-transcribe-diarize",
    "gpt-transcribe",
)
"""Names that clients of OpenAI's service have built in; here they mean ``auto``."""
MAX_SPEAKERS: Final = 100

_SPEAKERS: Final[Mapping[str, Speakers]] = {
    "srt": "if possible",
    "vtt": "if possible",
    "diarized_json": "required",
}
_STREAMED: Final = ("json", "text", "diarized_json")
_WITH_WORDS: Final = ("verbose_json", "diarized_json")
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8}){0,8}", re.ASCII)
_MODEL: Final = re.compile(r"[\x21-\x7e]{1,200}", re.ASCII)
_WHOLE_NUMBER: Final = re.compile(r"[0-9]{1,6}", re.ASCII)
_TRUTH: Final = {"true": True, "1": True, "false": False, "0": False}
_NOT_SUPPORTED: Final = {
    "include": "This gateway has nothing to include; confidences are part of verbose_json.",
    "keywords": "No engine here can be guided by keywords.",
    "known_speaker_names": "Speakers cannot be named from samples of their voices here.",
    "known_speaker_references": "Speakers cannot be named from samples of their voices here.",
    "languages": "Only one language can be asked for: use 'language', or leave it out.",
    "prompt": "No engine here can be guided by a prompt.",
}
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    """A checked request: what the service is asked, and how the answer looks."""

    job: Job
    response_format: ResponseFormat = "json"
    granularities: frozenset[Granularity] = frozenset(("segment",))
    stream: bool = False


def parse(fields: Mapping[str, Sequence[str]]) -> TranscriptionRequest:
    """Check the fields of a form; an empty value counts as left out.

    Raises:
        ApiError: 400, with the field at fault.
    """
    given: dict[str, list[str]] = {}
    for name, values in fields.items():
        kept = [value for value in values if value.strip()]
        if kept:  # clients send lists as name, name[] or name[0]; objects as name[key]
            given.setdefault(name.partition("[")[0] or name, []).extend(kept)
    asked = _Fields(given)
    for name, reason in _NOT_SUPPORTED.items():
        if asked.take(name):
            raise refuse(name, reason, "unsupported_parameter")
    form: ResponseFormat = asked.one("response_format", _response_format, "json")
    stream = asked.one("stream", _truth, False)
    if stream and form not in _STREAMED:
        raise refuse(
            "response_format", f"A stream can be {', '.join(_STREAMED)}, not {form}.", "unsupported_value"
        )
    asked.one("temperature", _temperature, 0.0)
    asked.one("chunking_strategy", _chunking, AUTO)
    granularities = frozenset(_granularity(value) for value in asked.take("timestamp_granularities"))
    if granularities and form not in _WITH_WORDS:
        raise refuse(
            "timestamp_granularities", f"Granularities need response_format={' or '.join(_WITH_WORDS)}."
        )
    num_speakers = asked.one("num_speakers", _num_speakers, None)
    speakers = _SPEAKERS.get(form, "none")
    if num_speakers is not None and speakers == "none":
        raise refuse(
            "num_speakers",
            f"Speakers are not part of {form}: ask for {', '.join(_SPEAKERS)} or leave it out.",
        )
    model, language = asked.one("model", _model, None), asked.one("language", _language, None)
    if model is None and language is None:
        raise ApiError(
            "Say 'model' ('auto' takes the best one), 'language', or both.",
            param="model",
            code="missing_required_parameter",
        )
    asked.finish()
    job = Job(
        model=model or AUTO,
        language=language,
        speakers="required" if num_speakers is not None else speakers,
        num_speakers=num_speakers,
    )
    return TranscriptionRequest(job, form, granularities or frozenset(("segment",)), stream)


class _Fields:
    """The fields not looked at yet."""

    def __init__(self, given: dict[str, list[str]]) -> None:
        self._left = given

    def take(self, name: str) -> list[str]:
        return self._left.pop(name, [])

    def one(self, name: str, read: Callable[[str], Value], default: Value) -> Value:
        values = self.take(name)
        if len(values) > 1:
            raise refuse(name, f"'{name}' was given {len(values)} times.")
        return read(values[0].strip()) if values else default

    def finish(self) -> None:
        for name in self._left:
            shown = name[:100]
            raise refuse(shown, f"There is no field {shown!r}.", "unknown_parameter")


def _response_format(text: str) -> ResponseFormat:
    for form in get_args(ResponseFormat):
        if text == form:
            return form  # type: ignore[no-any-return]
    raise refuse("response_format", f"'response_format' must be one of {', '.join(RESPONSE_FORMATS)}.")


def _truth(text: str) -> bool:
    try:
        return _TRUTH[text.lower()]
    except KeyError:
        raise refuse("stream", "'stream' must be true or false.") from None


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise refuse("temperature", "'temperature' must be a number from 0 to 1.")
    if value:
        raise refuse(
            "temperature", "The engines do not sample: only temperature 0 is possible.", "unsupported_value"
        )
    return value


def _chunking(text: str) -> str:
    if text != AUTO:
        raise refuse("chunking_strategy", "Only chunking_strategy=auto is possible.", "unsupported_value")
    return text


def _granularity(text: str) -> Granularity:
    for name in get_args(Granularity):
        if text.strip() == name:
            return name  # type: ignore[no-any-return]
    raise refuse("timestamp_granularities", "Granularities are word and segment.")


def _num_speakers(text: str) -> int | None:
    if not _WHOLE_NUMBER.fullmatch(text) or not 1 <= int(text) <= MAX_SPEAKERS:
        raise refuse("num_speakers", f"'num_speakers' must be a whole number from 1 to {MAX_SPEAKERS}.")
    return int(text)


def _model(text: str) -> str | None:
    if not _MODEL.fullmatch(text):
        raise refuse("model", "'model' must be a name of printable ASCII without spaces.")
    return AUTO if text in OPENAI_MODELS else text


def _language(text: str) -> str | None:
    if not _LANGUAGE.fullmatch(text):
        raise refuse("language", "'language' must be a BCP-47 tag such as en or de-CH.")
    return text
