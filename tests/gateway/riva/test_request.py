"""Every field of the message has a row here: one that is neither honoured nor refused fails."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from riva.client.proto.riva_asr_pb2 import (
    EndpointingConfig,
    RecognitionConfig,
    SpeakerDiarizationConfig,
    SpeechContext,
)

from orchestrator.engines.endpointing import EndpointingOptions
from orchestrator.gateway.intake import AudioSpec, Encoding
from orchestrator.gateway.riva.errors import RpcError
from orchestrator.gateway.riva.request import Ask, check_known, parse
from orchestrator.gateway.riva.text import TextRules

INVALID, UNABLE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED

DEFAULT_TEXT = TextRules(punctuation=False, digits=True, mask=False)
"""Of an empty message: its booleans are false, and ``verbatim_transcripts`` is one of them."""


def ask(**changes: Any) -> Ask:
    return Ask(**{"text": DEFAULT_TEXT} | changes)


def speakers(enable: bool, most: int) -> SpeakerDiarizationConfig:
    return SpeakerDiarizationConfig(enable_speaker_diarization=enable, max_speaker_count=most)


HONOURED: dict[str, list[tuple[Any, Ask]]] = {
    "encoding": [
        (0, ask(audio=AudioSpec(Encoding.UNKNOWN))),
        (1, ask(audio=AudioSpec(Encoding.PCM16))),
        (2, ask(audio=AudioSpec(Encoding.FLAC))),
        (3, ask(audio=AudioSpec(Encoding.MULAW))),
        (4, ask(audio=AudioSpec(Encoding.OPUS))),
        (20, ask(audio=AudioSpec(Encoding.ALAW))),
    ],
    "sample_rate_hertz": [(0, ask()), (8000, ask(audio=AudioSpec(sample_rate_hz=8000)))],
    "audio_channel_count": [(0, ask()), (2, ask(audio=AudioSpec(channels=2)))],
    "language_code": [
        ("", ask()),
        ("multi", ask()),
        ("en-US", ask(language="en-US")),
        ("de", ask(language="de")),
    ],
    "max_alternatives": [(0, ask()), (1, ask()), (5, ask())],
    "profanity_filter": [(True, ask(text=TextRules(False, True, True)))],
    "speech_contexts": [
        ([SpeechContext(phrases=[], boost=20)], ask()),
        ([SpeechContext(phrases=["Ada"], boost=0)], ask()),
    ],
    "enable_word_time_offsets": [(True, ask(word_times=True))],
    "enable_automatic_punctuation": [(True, ask(text=TextRules(True, True, False)))],
    "enable_separate_recognition_per_channel": [(False, ask())],
    "model": [("", ask()), ("parakeet", ask(model="parakeet"))],
    "verbatim_transcripts": [
        (False, ask()),
        (True, ask(text=TextRules(False, False, False))),
    ],
    "diarization_config": [
        (speakers(True, 3), ask(max_speakers=3, word_times=True)),
        (speakers(True, 0), ask(max_speakers=8, word_times=True)),
        (speakers(False, 3), ask()),
    ],
    "custom_configuration": [
        ({}, ask()),
        ({"task": "transcribe"}, ask()),
        ({"get_vad_probabilities": "false"}, ask()),
        (
            {"enable_vad_endpointing": "True"},
            ask(endpointing=EndpointingOptions(speech_from="vad")),
        ),
    ],
    "endpointing_config": [
        (EndpointingConfig(), ask()),
        (
            EndpointingConfig(
                start_history=200,
                start_threshold=0.5,
                stop_history=400,
                stop_threshold=0.75,
                stop_history_eou=240,
                stop_threshold_eou=0.25,
            ),
            ask(
                endpointing=EndpointingOptions(
                    start_history_ms=200,
                    start_threshold=0.5,
                    stop_history_ms=400,
                    stop_threshold=0.75,
                    stop_history_eou_ms=240,
                    stop_threshold_eou=0.25,
                )
            ),
        ),
    ],
}

REFUSED: list[tuple[str, Any, Any, str]] = [
    ("encoding", 7, INVALID, "encoding: there is no encoding 7"),
    ("sample_rate_hertz", -1, INVALID, "sample_rate_hertz: -1 is outside"),
    ("sample_rate_hertz", 999, INVALID, "sample_rate_hertz: 999 is outside"),
    ("audio_channel_count", -1, INVALID, "audio_channel_count: -1 is outside"),
    ("audio_channel_count", 65, INVALID, "audio_channel_count: 65 is outside"),
    ("language_code", "english please", INVALID, "language_code: it is no BCP-47 tag"),
    ("language_code", "en" + "-a" * 1000, INVALID, "language_code: it is no BCP-47 tag"),
    ("max_alternatives", -1, INVALID, "max_alternatives: -1 is less"),
    ("speech_contexts", [SpeechContext(phrases=["Ada"], boost=4)], UNABLE, "speech_contexts: no engine"),
    ("enable_separate_recognition_per_channel", True, UNABLE, "enable_separate_recognition_per_channel: "),
    ("model", "m" * 257, INVALID, "model: it is longer"),
    ("diarization_config", speakers(True, -1), INVALID, "diarization_config.max_speaker_count: -1"),
    ("diarization_config", speakers(True, 101), INVALID, "diarization_config.max_speaker_count: 101"),
    ("custom_configuration", {"beam": "4"}, INVALID, r"custom_configuration\['beam'\]: there is no such key"),
    (
        "custom_configuration",
        {"neural_vad.onset": "0.5"},
        INVALID,
        r"custom_configuration\['neural_vad.onset'",
    ),
    ("custom_configuration", {"task": "translate"}, UNABLE, r"custom_configuration\['task'\]: "),
    ("custom_configuration", {"get_vad_probabilities": "true"}, UNABLE, "get_vad_probabilities"),
    ("custom_configuration", {"enable_vad_endpointing": "maybe"}, INVALID, "must be true or false"),
    ("endpointing_config", EndpointingConfig(stop_history=-5), INVALID, "endpointing_config.stop_history: "),
    (
        "endpointing_config",
        EndpointingConfig(start_threshold=1.5),
        INVALID,
        "endpointing_config.start_threshold",
    ),
    (
        "endpointing_config",
        EndpointingConfig(stop_history_eou=0),
        INVALID,
        "endpointing_config.stop_history_eou",
    ),
]


@pytest.mark.parametrize("name", [field.name for field in RecognitionConfig.DESCRIPTOR.fields])
def test_every_field_is_honoured(name: str) -> None:
    for value, expected in HONOURED[name]:
        assert parse(RecognitionConfig(**{name: value})) == expected


@pytest.mark.parametrize("field", [field.name for field in EndpointingConfig.DESCRIPTOR.fields])
def test_every_field_of_endpointing_changes_something(field: str) -> None:
    value = 160 if "history" in field else 0.5
    assert parse(RecognitionConfig(endpointing_config=EndpointingConfig(**{field: value}))) != ask()


@pytest.mark.parametrize(("name", "value", "code", "message"), REFUSED)
def test_what_cannot_be_is_refused_by_its_name(name: str, value: Any, code: Any, message: str) -> None:
    with pytest.raises(RpcError, match=message) as caught:
        parse(RecognitionConfig(**{name: value}))
    assert caught.value.code is code


def test_fields_of_nested_messages_are_all_known_here() -> None:
    """A new field in one of them needs a decision: this fails when the installed protocol grows."""
    assert [f.name for f in SpeakerDiarizationConfig.DESCRIPTOR.fields] == [
        "enable_speaker_diarization",
        "max_speaker_count",
    ]
    assert [f.name for f in SpeechContext.DESCRIPTOR.fields] == ["phrases", "boost"]


def test_fields_of_a_newer_protocol_are_refused() -> None:
    newer = RecognitionConfig.FromString(b"\xf8\x07\x01")  # field 127, a number
    with pytest.raises(
        RpcError, match="RecognitionConfig field 127: this gateway does not know it"
    ) as caught:
        check_known(newer)
    assert caught.value.code is UNABLE
    nested = RecognitionConfig()
    nested.diarization_config.MergeFromString(b"\xf8\x07\x01")
    with pytest.raises(RpcError, match="SpeakerDiarizationConfig field 127"):
        check_known(nested)
    check_known(RecognitionConfig(custom_configuration={"task": "transcribe"}, language_code="en"))


def test_a_language_without_a_list_of_profanity() -> None:
    with pytest.raises(RpcError, match="profanity_filter: there is no word list for the language 'kn-IN'"):
        parse(RecognitionConfig(profanity_filter=True, language_code="kn-IN"))


def test_the_defaults_of_the_client_library() -> None:
    """What transcribe_file.py sends without options."""
    config = RecognitionConfig(
        max_alternatives=1, enable_automatic_punctuation=False, verbatim_transcripts=True
    )
    assert parse(config) == Ask(text=TextRules(False, False, False))
