"""OpenAI's transcription sessions, in both of its spellings."""

from __future__ import annotations

from typing import Any

import pytest

STEP = 1600
DELTA = "conversation.item.input_audio_transcription.delta"
COMPLETED = "conversation.item.input_audio_transcription.completed"
SEGMENT = "conversation.item.input_audio_transcription.segment"
STARTED, STOPPED = "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped"
COMMITTED, ADDED = "input_audio_buffer.committed", "conversation.item.added"
PCM16K = {"input": {"format": {"type": "audio/pcm", "rate": 16_000}}}


@pytest.fixture
def openai(realtime: Any) -> Any:
    """A connection that has been set up as OpenAI's clients do."""
    socket = realtime.connect()
    socket.update_openai(audio=PCM16K)
    return socket


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def test_an_item_is_an_utterance(openai: Any) -> None:
    for _ in range(5):
        openai.hear(STEP, commit=False)
    events = openai.until(COMPLETED)
    assert kinds(events) == [STARTED, DELTA, DELTA, DELTA, STOPPED, COMMITTED, ADDED, COMPLETED]
    # A word is told when two results in a row have it and it is not their last.
    assert [event["delta"] for event in events if event["type"] == DELTA] == [
        "One",
        " two,",
        " three four Five.",
    ]
    assert events[-1]["transcript"] == "One two, three four Five."
    assert events[0]["audio_start_ms"] == 0
    assert events[4]["audio_end_ms"] == 500
    assert len({event["item_id"] for event in events if "item_id" in event}) == 1
    assert events[6]["item"]["id"] == events[0]["item_id"]
    openai.hear(5 * STEP, commit=False)
    following = openai.until(COMPLETED)
    assert following[-3]["previous_item_id"] == events[0]["item_id"]
    assert following[-1]["item_id"] != events[0]["item_id"]


def test_deltas_never_contradict_the_transcript(openai: Any, realtime: Any) -> None:
    """Where a final differs from what was told, the rest is not told as a delta."""
    openai.hear(3 * STEP, commit=False)
    told = "".join(event["delta"] for event in openai.until(DELTA) if event["type"] == DELTA)
    live = realtime.service.lives[0]
    live.words[0] = live.words[0].model_copy(update={"text": "Won"})
    openai.send("input_audio_buffer.commit")
    events = openai.until(COMPLETED)
    assert told == "One"
    assert DELTA not in kinds(events)
    assert events[-1]["transcript"].startswith("Won two")


def test_commits_end_items_without_turn_detection(realtime: Any) -> None:
    socket = realtime.connect()
    shown = socket.update_openai(audio={"input": PCM16K["input"] | {"turn_detection": None}})
    assert shown["audio"]["input"]["turn_detection"] is None
    socket.hear(7 * STEP)
    events = socket.until(COMPLETED)
    assert kinds(events) == [DELTA, DELTA, DELTA, COMMITTED, ADDED, COMPLETED] or set(kinds(events)) == {
        DELTA,
        COMMITTED,
        ADDED,
        COMPLETED,
    }
    assert events[-1]["transcript"] == "One two, three four Five. One two,"
    assert "".join(event["delta"] for event in events if event["type"] == DELTA) == events[-1]["transcript"]
    socket.send("input_audio_buffer.commit")
    socket.refused("input_audio_buffer_commit_empty")
    socket.hear(STEP // 2)
    assert socket.until(COMPLETED)[-1]["transcript"] == ""


def test_a_commit_ends_an_utterance(openai: Any) -> None:
    openai.hear(2 * STEP)
    assert openai.until(COMPLETED)[-1]["transcript"] == "One two,"
    openai.hear(STEP // 2)
    assert openai.next()["type"] == COMMITTED


def test_speakers_are_segments(realtime: Any) -> None:
    socket = realtime.connect()
    socket.update_openai(
        audio={"input": PCM16K["input"] | {"transcription": {"model": "gpt-4o-transcribe-diarize"}}}
    )
    socket.hear(5 * STEP, commit=False)
    (segment,) = (event for event in socket.until(COMPLETED) if event["type"] == SEGMENT)
    assert (segment["speaker"], segment["start"], segment["end"]) == ("speaker_1", 0, 0.5)
    assert segment["text"] == "One two, three four Five."
    assert realtime.service.lives[0].job.model == "auto"


def test_its_clients_are_known_when_they_connect(realtime: Any) -> None:
    for way in (
        {"path": "/v1/realtime?model=gpt-4o-transcribe"},
        {"headers": {"OpenAI-Beta": "realtime=v1"}},
        {"headers": {"X-Stainless-Lang": "python"}},
        {"subprotocols": ["realtime", "openai-insecure-api-key.none"]},
    ):
        realtime.connect(greeting=("session.created", "conversation.created"), **way)


def test_the_older_spelling(realtime: Any) -> None:
    socket = realtime.connect(
        greeting=("session.created", "conversation.created"), headers={"OpenAI-Beta": "realtime=v1"}
    )
    shown = socket.update(
        input_audio_format="pcm16",
        input_audio_transcription={"model": "gpt-4o-mini-transcribe", "language": "en", "prompt": ""},
        input_audio_noise_reduction=None,
        turn_detection={"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 640},
        include=[],
    )
    assert shown["turn_detection"]["silence_duration_ms"] == 640
    assert shown["input_audio_params"]["sample_rate_hz"] == 24_000
    socket.hear(2 * 2400, commit=False)  # of 24 kHz
    socket.send("input_audio_buffer.done")
    assert socket.until_last()[-1]["transcript"] == "One two,"
    options = realtime.service.lives[0].job.endpointing
    assert (options.stop_history_ms, options.speech_from, options.vad_onset) == (640, "vad", 0.5)


def test_the_session_is_shown_as_it_is(openai: Any, realtime: Any) -> None:
    other = realtime.connect()
    shown = other.update_openai(
        audio={
            "input": {
                "format": {"type": "audio/pcmu"},
                "transcription": {"model": "ears", "language": "en-US"},
                "noise_reduction": None,
                "turn_detection": {"type": "server_vad", "prefix_padding_ms": 300, "create_response": True},
            }
        },
        include=[],
        recognition_config={"enable_word_time_offsets": True},
    )
    assert shown["audio"]["input"] == {
        "format": {"type": "audio/pcmu"},
        "noise_reduction": None,
        "transcription": {"language": "en-US", "model": "ears", "prompt": ""},
        "turn_detection": {"type": "server_vad", "prefix_padding_ms": 300, "create_response": True},
    }
    other.hear(STEP, commit=False)
    other.send("input_audio_buffer.done")
    other.until_last()
    job = realtime.service.lives[-1].job
    assert (job.model, job.language) == ("ears", "en-US")


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"type": "realtime"}, "session.type"),
        ({"audio": {"output": {"voice": "alloy"}}}, "session.audio.output"),
        (
            {"audio": {"input": {"noise_reduction": {"type": "near_field"}}}},
            "session.input_audio_noise_reduction",
        ),
        ({"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}, "session.turn_detection.type"),
        (
            {"audio": {"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 5000}}}},
            "session.turn_detection.idle_timeout_ms",
        ),
        ({"audio": {"input": {"format": {"type": "audio/opus"}}}}, "session.audio.input.format.type"),
        ({"audio": {"input": {"format": {"type": ["audio/pcm"]}}}}, "session.audio.input.format.type"),
        ({"audio": {"input": {"loudness": 3}}}, "session.audio.input"),
        ({"audio": []}, "session.audio"),
        ({"audio": {"input": {"transcription": None}}}, "session.input_audio_transcription"),
        (
            {"audio": {"input": {"transcription": {"prompt": "about Ada"}}}},
            "session.input_audio_transcription.prompt",
        ),
        (
            {"audio": {"input": {"transcription": {"keywords": ["Ada"]}}}},
            "session.input_audio_transcription.keywords",
        ),
        (
            {"audio": {"input": {"transcription": {"delay": "low"}}}},
            "session.input_audio_transcription.delay",
        ),
        (
            {"audio": {"input": {"transcription": {"languages": ["en", "de"]}}}},
            "session.input_audio_transcription.languages",
        ),
        ({"include": ["item.input_audio_transcription.logprobs"]}, "session.include"),
        ({"instructions": "Be kind."}, "session.instructions"),
        (
            {
                "audio": {"input": {"turn_detection": None}},
                "speaker_diarization": {"enable_speaker_diarization": True},
            },
            "session.turn_detection",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(
    realtime: Any, session: dict[str, Any], param: str
) -> None:
    socket = realtime.connect()
    socket.send("session.update", session={"type": "transcription"} | session)
    assert socket.refused()["param"] == param
    socket.update_openai()  # and nothing of it was taken
