"""A `RecognitionConfig` to what is done here, or the refusal that names the field.

Each field of the message has a rule. A field without one (of a newer protocol) is refused when it is set, so
that nothing that changes a result is passed over in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from pydantic import ValidationError
from riva.client.proto.riva_asr_pb2 import RecognitionConfig
from riva.client.proto.riva_audio_pb2 import AudioEncoding

from orchestrator.audio.models import MAX_CHANNELS, RATES_HZ
from orchestrator.client.routing import AUTO, primary_tag
from orchestrator.engines.endpointing import EndpointingOptions
from orchestrator.gateway.intake import AudioSpec, Encoding
from orchestrator.gateway.riva import profanity
from orchestrator.gateway.riva.errors import refuse, unable
from orchestrator.gateway.riva.text import TextRules

MAX_SPEAKERS: Final = 100
DEFAULT_SPEAKERS: Final = 8
"""Riva's own, where the caller sets none."""
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8}){0,8}", re.ASCII)
_ANY_LANGUAGE: Final = ("", "multi")
"""What Riva's clients send to leave the language to the engine."""
_LONGEST_NAME: Final = 256
_ENCODINGS: Final = {
    AudioEncoding.ENCODING_UNSPECIFIED: Encoding.UNKNOWN,
    AudioEncoding.LINEAR_PCM: Encoding.PCM16,
    AudioEncoding.FLAC: Encoding.FLAC,
    AudioEncoding.MULAW: Encoding.MULAW,
    AudioEncoding.OGGOPUS: Encoding.OPUS,
    AudioEncoding.ALAW: Encoding.ALAW,
}


@dataclass(frozen=True, slots=True)
class Ask:
    """What a caller asked for.

    Attributes:
        audio: what it said of its audio.
        model: the name of an engine or a model, or ``auto``.
        language: BCP-47 tag; None leaves it to the engine.
        word_times: whether words come with the transcript; they always do where speakers are wanted.
        text: how the transcript is written.
        max_speakers: the most speakers there may be; None: speakers are not named.
        endpointing: when an utterance begins and ends.
    """

    audio: AudioSpec = field(default_factory=AudioSpec)
    model: str = AUTO
    language: str | None = None
    word_times: bool = False
    text: TextRules = field(default_factory=TextRules)
    max_speakers: int | None = None
    endpointing: EndpointingOptions = field(default_factory=EndpointingOptions)


def parse(config: RecognitionConfig) -> Ask:
    """Check ``config``.

    Raises:
        RpcError: a field is outside its range (INVALID_ARGUMENT), or asks for what cannot be done here
            (UNIMPLEMENTED); the message begins with the field's name.
    """
    check_known(config)
    ask = Ask()
    for present, _ in config.ListFields():
        if present.name not in _RULES:
            raise unable(present.name, "this gateway does not know the field.")
    for rule in _RULES.values():
        ask = rule(ask, config)
    if ask.text.mask and ask.language is not None and not profanity.knows(primary_tag(ask.language)):
        raise unable("profanity_filter", f"there is no word list for the language {ask.language!r}.")
    return ask


def check_known(message: Message) -> None:
    """Refuse a message that holds fields of a newer protocol, at any depth.

    Raises:
        RpcError: it does.
    """
    unknown = UnknownFieldSet(message)
    if len(unknown):
        number = unknown[0].field_number
        raise unable(f"{message.DESCRIPTOR.name} field {number}", "this gateway does not know it.")
    for present, value in message.ListFields():
        if present.message_type is None or present.message_type.GetOptions().map_entry:
            continue
        for part in value if present.is_repeated else [value]:
            check_known(part)


def _encoding(ask: Ask, config: RecognitionConfig) -> Ask:
    encoding = _ENCODINGS.get(config.encoding)
    if encoding is None:
        raise refuse("encoding", f"there is no encoding {config.encoding}.")
    return replace(ask, audio=replace(ask.audio, encoding=encoding))


def _sample_rate(ask: Ask, config: RecognitionConfig) -> Ask:
    rate = config.sample_rate_hertz
    low, high = RATES_HZ
    if rate and not low <= rate <= high:
        raise refuse("sample_rate_hertz", f"{rate} is outside {low} to {high}.")
    return replace(ask, audio=replace(ask.audio, sample_rate_hz=rate or None))


def _channels(ask: Ask, config: RecognitionConfig) -> Ask:
    count = config.audio_channel_count
    if not 0 <= count <= MAX_CHANNELS:
        raise refuse("audio_channel_count", f"{count} is outside 0 to {MAX_CHANNELS}.")
    return replace(ask, audio=replace(ask.audio, channels=count or None))


def _separate(ask: Ask, config: RecognitionConfig) -> Ask:
    if config.enable_separate_recognition_per_channel:
        raise unable(
            "enable_separate_recognition_per_channel",
            "channels are mixed, as in Riva; send each channel in a request of its own.",
        )
    return ask


def _language(ask: Ask, config: RecognitionConfig) -> Ask:
    if config.language_code in _ANY_LANGUAGE:
        return ask
    if not _LANGUAGE.fullmatch(config.language_code):
        raise refuse("language_code", "it is no BCP-47 tag such as en-US.")
    return replace(ask, language=config.language_code)


def _alternatives(ask: Ask, config: RecognitionConfig) -> Ask:
    # The best hypothesis alone is returned; the protocol lets a server return fewer than asked for.
    if config.max_alternatives < 0:
        raise refuse("max_alternatives", f"{config.max_alternatives} is less than 0.")
    return ask


def _profanity(ask: Ask, config: RecognitionConfig) -> Ask:
    return replace(ask, text=replace(ask.text, mask=config.profanity_filter))


def _contexts(ask: Ask, config: RecognitionConfig) -> Ask:
    # Without phrases or boost a context changes nothing.
    if any(context.phrases and context.boost for context in config.speech_contexts):
        raise unable("speech_contexts", "no engine here can be biased towards words.")
    return ask


def _word_times(ask: Ask, config: RecognitionConfig) -> Ask:
    return replace(ask, word_times=ask.word_times or config.enable_word_time_offsets)


def _punctuation(ask: Ask, config: RecognitionConfig) -> Ask:
    return replace(ask, text=replace(ask.text, punctuation=config.enable_automatic_punctuation))


def _model(ask: Ask, config: RecognitionConfig) -> Ask:
    if len(config.model) > _LONGEST_NAME:
        raise refuse("model", f"it is longer than {_LONGEST_NAME} characters.")
    return replace(ask, model=config.model or AUTO)


def _verbatim(ask: Ask, config: RecognitionConfig) -> Ask:
    return replace(ask, text=replace(ask.text, digits=not config.verbatim_transcripts))


def _diarization(ask: Ask, config: RecognitionConfig) -> Ask:
    wanted = config.diarization_config
    most = wanted.max_speaker_count
    if not 0 <= most <= MAX_SPEAKERS:
        raise refuse("diarization_config.max_speaker_count", f"{most} is outside 0 to {MAX_SPEAKERS}.")
    if not wanted.enable_speaker_diarization:
        return ask
    return replace(ask, max_speakers=most or DEFAULT_SPEAKERS, word_times=True)


_ENDPOINTING: Final = {
    "start_history": "start_history_ms",
    "start_threshold": "start_threshold",
    "stop_history": "stop_history_ms",
    "stop_threshold": "stop_threshold",
    "stop_history_eou": "stop_history_eou_ms",
    "stop_threshold_eou": "stop_threshold_eou",
}
"""Riva's field to ours."""


def _endpointing(ask: Ask, config: RecognitionConfig) -> Ask:
    given = {
        _ENDPOINTING.get(present.name, present.name): value
        for present, value in config.endpointing_config.ListFields()
    }
    return _with_endpointing(
        ask, given, "endpointing_config", {ours: name for name, ours in _ENDPOINTING.items()}
    )


def _with_endpointing(ask: Ask, given: Mapping[str, Any], where: str, names: Mapping[str, str]) -> Ask:
    if not given:
        return ask
    try:
        chosen = EndpointingOptions.model_validate(ask.endpointing.model_dump() | dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        raise refuse(f"{where}.{names.get(name, name)}".rstrip("."), f"{first['msg']}.") from error
    return replace(ask, endpointing=chosen)


def flag(name: str, text: str) -> bool:
    """A boolean that travels as text.

    Raises:
        RpcError: it is none.
    """
    if text.lower() not in ("true", "false"):
        raise refuse(name, "it must be true or false.")
    return text.lower() == "true"


def _custom_task(ask: Ask, name: str, value: str) -> Ask:
    if value.lower() != "transcribe":
        raise unable(name, "no engine here translates.")
    return ask


def _custom_vad(ask: Ask, name: str, value: str) -> Ask:
    source = "vad" if flag(name, value) else "tokens"
    return replace(ask, endpointing=ask.endpointing.model_copy(update={"speech_from": source}))


def _custom_off(ask: Ask, name: str, value: str, *, what: str) -> Ask:
    if flag(name, value):
        raise unable(name, what)
    return ask


_CUSTOM: Final[Mapping[str, Callable[[Ask, str, str], Ask]]] = {
    "task": _custom_task,
    "enable_vad_endpointing": _custom_vad,
    "get_vad_probabilities": partial(_custom_off, what="probabilities of voice activity are not returned."),
}


def _custom(ask: Ask, config: RecognitionConfig) -> Ask:
    for key, value in sorted(config.custom_configuration.items()):
        name = f"custom_configuration[{key[:_LONGEST_NAME]!r}]"
        rule = _CUSTOM.get(key)
        if rule is None:
            raise refuse(name, f"there is no such key; there are {', '.join(sorted(_CUSTOM))}.")
        ask = rule(ask, name, value)
    return ask


_RULES: Final[Mapping[str, Callable[[Ask, RecognitionConfig], Ask]]] = {
    "encoding": _encoding,
    "sample_rate_hertz": _sample_rate,
    "language_code": _language,
    "max_alternatives": _alternatives,
    "profanity_filter": _profanity,
    "speech_contexts": _contexts,
    "audio_channel_count": _channels,
    "enable_word_time_offsets": _word_times,
    "enable_automatic_punctuation": _punctuation,
    "enable_separate_recognition_per_channel": _separate,
    "model": _model,
    "verbatim_transcripts": _verbatim,
    "diarization_config": _diarization,
    "custom_configuration": _custom,
    "endpointing_config": _endpointing,
}
