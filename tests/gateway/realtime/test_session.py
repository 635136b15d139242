"""Each field of NIM's session: honoured, or refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.gateway.intake import AudioSpec, Encoding
from orchestrator.gateway.realtime.events import EventError
from orchestrator.gateway.realtime.fields import SessionFields
from orchestrator.gateway.realtime.session import Session


def ask(**session: Any) -> Any:
    made = Session()
    made.update(session)
    return made.setup().ask


def test_the_defaults() -> None:
    given = Session().setup()
    assert given.ask.audio == AudioSpec(Encoding.PCM16, 16_000, 1)
    assert (given.ask.model, given.ask.language, given.ask.max_speakers) == ("auto", None, None)
    assert not given.by_hand
    assert Session(openai=True).setup().ask.audio.sample_rate_hz == 24_000


HONOURED: dict[str, tuple[Any, Any]] = {
    "input_audio_format": ("none", lambda ask: ask.audio == AudioSpec()),
    "input_audio_transcription": (
        {"language": "de-CH", "model": "ears"},
        lambda ask: (ask.language, ask.model) == ("de-CH", "ears"),
    ),
    "input_audio_params": (
        {"sample_rate_hz": 44_100, "num_channels": 2},
        lambda ask: ask.audio == AudioSpec(Encoding.PCM16, 44_100, 2),
    ),
    "recognition_config": (
        {
            "enable_automatic_punctuation": True,
            "enable_word_time_offsets": True,
            "enable_profanity_filter": True,
            "enable_verbatim_transcripts": True,
            "max_alternatives": 3,
            "custom_configuration": "task:transcribe, enable_vad_endpointing:true",
        },
        lambda ask: (
            ask.text.punctuation
            and ask.text.mask
            and not ask.text.digits
            and ask.word_times
            and ask.endpointing.speech_from == "vad"
        ),
    ),
    "speaker_diarization": (
        {"enable_speaker_diarization": True, "max_speaker_count": 3},
        lambda ask: ask.max_speakers == 3 and ask.word_times,
    ),
    "endpointing_config": (
        {
            "start_history": 160,
            "start_threshold": 0.1,
            "stop_history": 640,
            "stop_threshold": 0.9,
            "stop_history_eou": 240,
            "stop_threshold_eou": 0.8,
        },
        lambda ask: (
            (
                ask.endpointing.start_history_ms,
                ask.endpointing.start_threshold,
                ask.endpointing.stop_history_ms,
                ask.endpointing.stop_threshold,
                ask.endpointing.stop_history_eou_ms,
                ask.endpointing.stop_threshold_eou,
            )
            == pytest.approx((160, 0.1, 640, 0.9, 240, 0.8))
        ),
    ),
    "turn_detection": (
        {"silence_duration_ms": 320},
        lambda ask: ask.endpointing.stop_history_ms == 320,
    ),
}
WITHOUT_EFFECT: dict[str, Any] = {
    "id": "sess_1",
    "object": "realtime.transcription_session",
    "expires_at": 0,
    "client_secret": {"value": "ek_1", "expires_at": 1},
    "modalities": ["text"],
    "word_boosting": {
        "enable_word_boosting": False,
        "word_boosting_list": [{"phrases": ["Ada"], "boost": 9}],
    },
    "input_audio_noise_reduction": None,
    "include": [],
}


def test_no_field_is_forgotten() -> None:
    assert set(HONOURED) | set(WITHOUT_EFFECT) == set(SessionFields.model_fields)


@pytest.mark.parametrize("name", HONOURED)
def test_what_is_honoured(name: str) -> None:
    value, holds = HONOURED[name]
    assert not holds(Session().setup().ask)
    assert holds(ask(**{name: value}))


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_what_has_no_effect(name: str) -> None:
    assert ask(**{name: WITHOUT_EFFECT[name]}) == Session().setup().ask


def test_zeros_leave_endpointing_to_the_server() -> None:
    zeros = dict.fromkeys(("start_history", "start_threshold", "stop_history", "stop_threshold"), 0)
    assert ask(endpointing_config=zeros) == Session().setup().ask


def test_updates_add_up_and_those_refused_leave_nothing() -> None:
    session = Session()
    session.update({"recognition_config": {"enable_word_time_offsets": True}})
    session.update({"recognition_config": {"enable_automatic_punctuation": True}})
    with pytest.raises(EventError):
        session.update({"input_audio_format": "none", "recognition_config": {"max_alternatives": -1}})
    shown = session.flat()
    assert shown["input_audio_format"] == "pcm16"
    assert shown["recognition_config"]["enable_word_time_offsets"]
    assert shown["recognition_config"]["enable_automatic_punctuation"]


@pytest.mark.parametrize(
    ("session", "param", "code"),
    [
        ({"colour": "red"}, "session.colour", "unknown_parameter"),
        ({"recognition_config": {"beam": 4}}, "session.recognition_config.beam", "unknown_parameter"),
        ({"input_audio_format": "mp3"}, "session.input_audio_format", "invalid_value"),
        (
            {"input_audio_params": {"sample_rate_hz": 10}},
            "session.input_audio_params.sample_rate_hz",
            "invalid_value",
        ),
        (
            {"input_audio_params": {"num_channels": "two"}},
            "session.input_audio_params.num_channels",
            "invalid_value",
        ),
        ({"modalities": ["text", "audio"]}, "session.modalities.1", "invalid_value"),
        (
            {"input_audio_transcription": {"language": "not a language"}},
            "session.input_audio_transcription.language",
            "invalid_value",
        ),
        (
            {"input_audio_transcription": {"model": "m" * 300}},
            "session.input_audio_transcription.model",
            "invalid_value",
        ),
        (
            {"input_audio_transcription": {"prompt": "about Ada"}},
            "session.input_audio_transcription.prompt",
            "unsupported_parameter",
        ),
        (
            {
                "word_boosting": {
                    "enable_word_boosting": True,
                    "word_boosting_list": [{"phrases": ["a"], "boost": 4}],
                }
            },
            "session.word_boosting",
            "unsupported_parameter",
        ),
        (
            {"speaker_diarization": {"max_speaker_count": 1000}},
            "session.speaker_diarization.max_speaker_count",
            "invalid_value",
        ),
        (
            {"endpointing_config": {"stop_threshold": 1.5}},
            "session.endpointing_config.stop_threshold",
            "invalid_value",
        ),
        (
            {"recognition_config": {"custom_configuration": "neural_vad.onset:0.5"}},
            "session.recognition_config.custom_configuration['neural_vad.onset']",
            "invalid_value",
        ),
        (
            {"recognition_config": {"custom_configuration": "task"}},
            "session.recognition_config.custom_configuration",
            "invalid_value",
        ),
        (
            {
                "recognition_config": {"enable_profanity_filter": True},
                "input_audio_transcription": {"language": "eu"},
            },
            "session.recognition_config.enable_profanity_filter",
            "unsupported_parameter",
        ),
    ],
)
def test_refusals_name_the_field(session: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(EventError) as caught:
        Session().update(session)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.message.startswith(param)


@pytest.mark.parametrize("patch", [None, [], "x", 3])
def test_a_session_is_an_object(patch: object) -> None:
    with pytest.raises(EventError, match="session: it must be an object"):
        Session().update(patch)


def test_models_of_openais_clients_leave_the_choice_to_the_server() -> None:
    assert Session(openai=True, model="gpt-realtime").setup().ask.model == "auto"
    assert Session(openai=True, model="gpt-live-transcribe").setup().ask.model == "auto"
    assert Session(openai=True, model="ears").setup().ask.model == "ears"
    assert ask(input_audio_transcription={"model": "whisper-1"}).model == "auto"
