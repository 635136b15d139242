"""What a caller asked for, in either spelling, to what is done: each field honoured or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ValidationError
from riva.client.proto.riva_asr_pb2 import EndpointingConfig, RecognitionConfig, SpeakerDiarizationConfig

from orchestrator.engines.endpointing import EndpointingOptions
from orchestrator.errors import SpeechError
from orchestrator.gateway.http.fields import OPENAI_MODELS
from orchestrator.gateway.intake import AudioSpec, Encoding
from orchestrator.gateway.realtime.events import EventError, new_id, told
from orchestrator.gateway.realtime.fields import (
    OBJECT,
    ONLY_OPENAI,
    READ_ONLY,
    AudioParams,
    Recognition,
    SessionFields,
    Transcription,
    TurnDetection,
)
from orchestrator.gateway.riva import request as riva
from orchestrator.gateway.riva.request import Ask

AUTO_MODELS: Final = (*OPENAI_MODELS, "gpt-live-transcribe", "gpt-realtime-whisper")
"""Names that clients of OpenAI's service have built in; here they leave the choice to the server."""
_DIARIZING: Final = "gpt-4o-transcribe-diarize"
_CONVERSATION_MODEL: Final = "gpt-realtime"
"""OpenAI's clients name one when they connect, whatever kind of session follows."""
_ENCODINGS: Final = {"pcm16": Encoding.PCM16, "g711_ulaw": Encoding.MULAW, "g711_alaw": Encoding.ALAW}
_NIM_PCM_HZ: Final = 16_000
_OPENAI_PCM_HZ: Final = 24_000
_G711_HZ: Final = 8_000
_GA_FORMATS: Final = {"audio/pcm": "pcm16", "audio/pcmu": "g711_ulaw", "audio/pcma": "g711_alaw"}
_RIVA_NAMES: Final = {
    "language_code": "input_audio_transcription.language",
    "model": "input_audio_transcription.model",
    "max_alternatives": "recognition_config.max_alternatives",
    "profanity_filter": "recognition_config.enable_profanity_filter",
    "custom_configuration": "recognition_config.custom_configuration",
    "diarization_config.max_speaker_count": "speaker_diarization.max_speaker_count",
}
"""What Riva calls a field, and what this protocol does."""
_VAD_HYSTERESIS: Final = 0.15
"""Between the probability that begins speech and the one that ends it: Silero's own."""
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Setup:
    """What a stream of a session is.

    Attributes:
        ask: what is asked of the recogniser, and how its words are written.
        by_hand: the caller's commits end items, and nothing else does.
    """

    ask: Ask
    by_hand: bool = False


class Session:
    """One session's fields; updates change some of them."""

    def __init__(self, *, openai: bool = False, model: str = "") -> None:
        """Begin with the defaults of one of the two protocols.

        Args:
            openai: OpenAI's: 24 kHz, with punctuation; else NIM's.
            model: what the caller named when it connected; empty: nothing.
        """
        self._id = new_id("sess")
        self._openai = openai
        written = Recognition(enable_automatic_punctuation=True, enable_verbatim_transcripts=True)
        named = "" if model.startswith(_CONVERSATION_MODEL) and model not in AUTO_MODELS else model
        self._fields = SessionFields(
            input_audio_transcription=Transcription(model=named),
            recognition_config=written if openai else Recognition(),
        )

    def update(self, patch: object) -> None:
        """Take the fields that ``patch`` has; nothing is taken if one of them is refused.

        Raises:
            EventError: a field is unknown, outside its range, or asks for what cannot be done here.
        """
        if not isinstance(patch, dict):
            raise EventError("session: it must be an object.", param="session")
        flat = _flattened(patch) if "type" in patch or "audio" in patch else dict(patch)
        merged = _merged(self._fields.model_dump(exclude_unset=True), flat)
        try:
            fields = SessionFields.model_validate(merged)
        except ValidationError as error:
            raise _explained(error) from error
        _setup(fields, openai=self._openai)
        self._fields = fields

    def setup(self) -> Setup:
        """What a stream of it is, as it stands."""
        return _setup(self._fields, openai=self._openai)

    def flat(self, secret: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The session as ``transcription_session`` events and the HTTP endpoint show it."""
        fields = self._fields.model_dump(exclude={*READ_ONLY, *(() if self._openai else ONLY_OPENAI)})
        params = fields["input_audio_params"]
        params["sample_rate_hz"] = _rate(self._fields, openai=self._openai) or _NIM_PCM_HZ
        for name in ("delay", "keywords", "languages"):
            del fields["input_audio_transcription"][name]
        if fields["recognition_config"]["custom_configuration"] is None:
            del fields["recognition_config"]["custom_configuration"]
        return {"id": self._id, "object": OBJECT, **fields, "client_secret": secret}

    def nested(self) -> dict[str, Any]:
        """The session as OpenAI's ``session`` events show it, with NIM's parts beside."""
        fields = self.flat()
        audio_format = fields["input_audio_format"]
        names = {ours: theirs for theirs, ours in _GA_FORMATS.items()}
        shown: dict[str, Any] = {"type": names.get(audio_format, audio_format)}
        if audio_format == "pcm16":
            shown["rate"] = fields["input_audio_params"]["sample_rate_hz"]
        turns = self._fields.turn_detection
        return {
            "id": self._id,
            "object": OBJECT,
            "type": "transcription",
            "audio": {
                "input": {
                    "format": shown,
                    "noise_reduction": None,
                    "transcription": fields["input_audio_transcription"],
                    "turn_detection": None if turns is None else turns.model_dump(exclude_none=True),
                }
            },
            "include": [],
            **{
                part: fields[part]
                for part in (
                    "recognition_config",
                    "speaker_diarization",
                    "word_boosting",
                    "endpointing_config",
                )
            },
        }


def _flattened(patch: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's nested session in the names of the flat one."""
    flat = dict(patch)
    if flat.pop("type", "transcription") != "transcription":
        raise _unable("session.type", "sessions here only transcribe; it must be 'transcription'.")
    audio = flat.pop("audio", None)
    if audio is None:
        return flat
    given = _object(audio, "session.audio", ("input", "output"))
    if given.get("output") is not None:
        raise _unable("session.audio.output", "nothing is spoken here.")
    names = ("format", "noise_reduction", "transcription", "turn_detection")
    heard = _object(given.get("input") or {}, "session.audio.input", names)
    if heard.get("format") is not None:
        where = "session.audio.input.format"
        shape = _object(heard["format"], where, ("type", "rate"))
        kind = shape.get("type", "audio/pcm")
        if kind not in (*_GA_FORMATS, "none"):
            raise EventError(
                f"{where}.type: it must be one of {', '.join(_GA_FORMATS)}.", param=f"{where}.type"
            )
        flat["input_audio_format"] = _GA_FORMATS.get(kind, kind)
        flat["input_audio_params"] = AudioParams().model_dump() | {"sample_rate_hz": shape.get("rate")}
    for theirs, ours in (
        ("noise_reduction", "input_audio_noise_reduction"),
        ("transcription", "input_audio_transcription"),
        ("turn_detection", "turn_detection"),
    ):
        if theirs in heard:
            flat[ours] = heard[theirs]
    return flat


def _object(value: object, where: str, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EventError(f"{where}: it must be an object.", param=where)
    for name in value:
        if name not in names:
            raise EventError(f"{where}.{name[:64]}: there is no such field.", "unknown_parameter", where)
    return value


def _merged(current: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(current)
    for name, value in patch.items():
        before = merged.get(name, _MISSING)
        both = isinstance(before, dict) and isinstance(value, dict) and name != "client_secret"
        merged[name] = {**before, **value} if both and isinstance(before, dict) else value
    return merged


def _explained(error: ValidationError) -> EventError:
    first = error.errors(include_url=False, include_input=False)[0]
    name = "session." + ".".join(str(part)[:64] for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return EventError(f"{name}: there is no such field.", "unknown_parameter", name)
    if first["type"] == "none_required":
        return _unable(name, "it cannot be done here; leave it out, or null.")
    return EventError(f"{name}: {first['msg']}.", param=name)


def _unable(name: str, message: str) -> EventError:
    return EventError(f"{name}: {message}", "unsupported_parameter", name)


def _rate(fields: SessionFields, *, openai: bool) -> int | None:
    if fields.input_audio_format == "none":
        return None
    if fields.input_audio_params.sample_rate_hz is not None:
        return fields.input_audio_params.sample_rate_hz
    if fields.input_audio_format != "pcm16":
        return _G711_HZ
    return _OPENAI_PCM_HZ if openai else _NIM_PCM_HZ


def _setup(fields: SessionFields, *, openai: bool) -> Setup:
    _refuse_what_cannot_be_done(fields)
    config = _recognition_config(fields)
    try:
        ask = riva.parse(config)
    except SpeechError as error:
        raise _renamed(told(error)) from error
    by_hand = fields.turn_detection is None
    if by_hand and ask.max_speakers is not None:
        raise _unable(
            "session.turn_detection", "speakers are named when an utterance ends, so it must end itself."
        )
    rate = _rate(fields, openai=openai)
    audio = AudioSpec()  # of a file, the header counts
    if rate is not None:
        audio = AudioSpec(_ENCODINGS[fields.input_audio_format], rate, fields.input_audio_params.num_channels)
    endpointing = _with_turns(ask.endpointing, fields.turn_detection)
    return Setup(replace(ask, audio=audio, endpointing=endpointing), by_hand=by_hand)


def _refuse_what_cannot_be_done(fields: SessionFields) -> None:
    spoken = fields.input_audio_transcription
    where = "session.input_audio_transcription"
    if spoken.prompt:
        raise _unable(f"{where}.prompt", "no engine here can be guided by a prompt.")
    if spoken.keywords:
        raise _unable(f"{where}.keywords", "no engine here can be guided by keywords.")
    if spoken.languages:
        raise _unable(f"{where}.languages", "only one language can be asked for, by 'language'.")
    if spoken.delay:
        raise _unable(f"{where}.delay", "the delay is the server's; see its preset.")
    if fields.include:
        raise _unable("session.include", "there is nothing to include; words carry their confidence.")
    boosting = fields.word_boosting
    boosted = any(boost.phrases and boost.boost for boost in boosting.word_boosting_list)
    if boosting.enable_word_boosting and boosted:
        raise _unable("session.word_boosting", "no engine here can be biased towards words.")


def _recognition_config(fields: SessionFields) -> RecognitionConfig:
    spoken, asked, people = (
        fields.input_audio_transcription,
        fields.recognition_config,
        fields.speaker_diarization,
    )
    model = spoken.model or ""
    diarizes = people.enable_speaker_diarization or model == _DIARIZING
    endpointing = {name: value for name, value in fields.endpointing_config.model_dump().items() if value}
    return RecognitionConfig(
        language_code=spoken.language or "",
        model="" if model in AUTO_MODELS else model,
        max_alternatives=asked.max_alternatives,
        profanity_filter=asked.enable_profanity_filter,
        enable_word_time_offsets=asked.enable_word_time_offsets,
        enable_automatic_punctuation=asked.enable_automatic_punctuation,
        verbatim_transcripts=asked.enable_verbatim_transcripts,
        diarization_config=SpeakerDiarizationConfig(
            enable_speaker_diarization=diarizes, max_speaker_count=people.max_speaker_count
        ),
        endpointing_config=EndpointingConfig(**endpointing),
        custom_configuration=_pairs(asked.custom_configuration),
    )


def _pairs(custom: str | Mapping[str, str] | None) -> Mapping[str, str]:
    """``key:value,key:value`` as Riva's scripts write it."""
    if custom is None or not isinstance(custom, str):
        return custom or {}
    pairs: dict[str, str] = {}
    for pair in custom.replace(" ", "").split(","):
        key, colon, value = pair.partition(":")
        if pair and not (key and colon):
            name = "session.recognition_config.custom_configuration"
            raise EventError(f"{name}: it must be key:value pairs with commas between.", param=name)
        if pair:
            pairs[key] = value
    return pairs


def _renamed(error: EventError) -> EventError:
    """Riva's name of the field at fault as this protocol has it."""
    name, colon, rest = error.message.partition(":")
    field, bracket, index = name.partition("[")
    ours = f"session.{_RIVA_NAMES.get(field, field)}{bracket}{index}"
    return EventError(f"{ours}{colon}{rest}", error.code, ours, error.status)


def _with_turns(endpointing: EndpointingOptions, turns: TurnDetection | None) -> EndpointingOptions:
    """OpenAI's parameters over Riva's."""
    if turns is None:
        return endpointing
    chosen: dict[str, Any] = {}
    if turns.silence_duration_ms is not None:
        chosen["stop_history_ms"] = turns.silence_duration_ms
    if turns.threshold is not None:
        offset = max(turns.threshold - _VAD_HYSTERESIS, 0.0)
        chosen |= {"speech_from": "vad", "vad_onset": turns.threshold, "vad_offset": offset}
    return endpointing.model_copy(update=chosen)
