"""NIM's events, in the order that its clients wait for."""

from __future__ import annotations

from typing import Any

import pytest

STEP = 1600
"""Samples of a word of the recogniser; a final is five of them."""
DELTA = "conversation.item.input_audio_transcription.delta"
COMPLETED = "conversation.item.input_audio_transcription.completed"


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def test_a_session_from_beginning_to_end(nim: Any, realtime: Any) -> None:
    for _ in range(7):
        nim.hear(STEP)
    nim.send("input_audio_buffer.done")
    events = nim.until_last()
    committed = "input_audio_buffer.committed"
    assert kinds(events) == (
        [DELTA, committed] * 4 + [COMPLETED, committed] + [DELTA, committed] * 2 + [COMPLETED]
    )
    assert [event["delta"] for event in events if event["type"] == DELTA] == [
        "one ",
        "one two ",
        "one two three ",
        "one two three four ",
        "one ",
        "one two ",
    ]
    first, last = (event for event in events if event["type"] == COMPLETED)
    assert (first["transcript"], first["is_last_result"]) == ("one two three four five ", False)
    assert (last["transcript"], last["is_last_result"]) == ("one two ", True)
    assert first["item_id"] != last["item_id"]
    assert first["words_info"] == {"words": []}
    assert first["usage"] == {"type": "duration", "seconds": 0.5}
    assert events[0]["item_id"] == first["item_id"]


@pytest.mark.parametrize("samples", [0, 800])
def test_the_last_result_comes_though_nothing_was_said(nim: Any, samples: int) -> None:
    if samples:
        nim.hear(samples)
    nim.send("input_audio_buffer.done")
    last = nim.until_last()[-1]
    assert (last["type"], last["transcript"]) == (COMPLETED, "")
    assert last["words_info"] == {"words": []}


def test_the_default_session(realtime: Any) -> None:
    answer = realtime.client.post("/v1/realtime/transcription_sessions", json={})
    assert answer.status_code == 200
    session = answer.json()
    assert session.pop("id").startswith("sess_")
    assert session == {
        "object": "realtime.transcription_session",
        "modalities": ["text"],
        "input_audio_format": "pcm16",
        "input_audio_transcription": {"language": "", "model": "", "prompt": ""},
        "input_audio_params": {"sample_rate_hz": 16_000, "num_channels": 1},
        "recognition_config": {
            "max_alternatives": 1,
            "enable_automatic_punctuation": False,
            "enable_word_time_offsets": False,
            "enable_profanity_filter": False,
            "enable_verbatim_transcripts": False,
        },
        "speaker_diarization": {"enable_speaker_diarization": False, "max_speaker_count": 8},
        "word_boosting": {"enable_word_boosting": False, "word_boosting_list": []},
        "endpointing_config": {
            "start_history": 0,
            "start_threshold": 0,
            "stop_history": 0,
            "stop_threshold": 0,
            "stop_history_eou": 0,
            "stop_threshold_eou": 0,
        },
        "client_secret": None,
    }


def test_the_whole_session_may_come_back(realtime: Any) -> None:
    """As NVIDIA's client does it."""
    session = realtime.client.post("/v1/realtime/transcription_sessions").json()
    shown = realtime.connect().update(**session | {"input_audio_format": "none"})
    assert shown | {"id": session["id"]} == session | {"input_audio_format": "none"}


def test_words_with_times_and_speakers(realtime: Any) -> None:
    socket = realtime.connect()
    socket.update(
        recognition_config={"enable_automatic_punctuation": True, "enable_verbatim_transcripts": True},
        speaker_diarization={"enable_speaker_diarization": True, "max_speaker_count": 2},
    )
    socket.hear(7 * STEP)
    socket.send("input_audio_buffer.done")
    first, last = (event for event in socket.until_last() if event["type"] == COMPLETED)
    assert first["transcript"] == "One two, three four Five. "
    assert first["words_info"]["words"][1] == {
        "word": "two,",
        "start_time": 100,
        "end_time": 200,
        "confidence": 0.5,
        "speaker_tag": 1,
    }
    assert {word["speaker_tag"] for word in last["words_info"]["words"]} == {2}
    job = realtime.service.lives[0].job
    assert (job.speakers, job.max_speakers) == (True, 2)


def test_the_end_of_an_utterance_by_hand(nim: Any) -> None:
    nim.hear(2 * STEP, commit=False, runtime_config={"force_eou": "true"})
    (completed,) = nim.until(COMPLETED)
    assert (completed["transcript"], completed["is_last_result"]) == ("one two ", False)
    nim.hear(STEP, commit=False)
    assert nim.next()["delta"] == "three "


def test_a_file_in_any_cut(realtime: Any) -> None:
    import io

    import numpy as np
    import soundfile

    for form, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "OPUS")):
        buffer = io.BytesIO()
        soundfile.write(buffer, np.zeros((24_000, 2)), 48_000, format=form, subtype=subtype)
        data = buffer.getvalue()
        socket = realtime.connect()
        # What the client says of the samples does not count: the header does.
        socket.update(input_audio_format="none", input_audio_params={"sample_rate_hz": 8000})
        for part in (data[:1], data[1:7], data[7:200], data[200:]):
            socket.send_bytes(part, commit=False)
        socket.send("input_audio_buffer.done")
        said = [event["transcript"] for event in socket.until_last() if event["type"] == COMPLETED]
        assert sum(len(text.split()) for text in said) == 5, form


@pytest.mark.parametrize(
    ("session", "data", "words"),
    [
        ({"input_audio_params": {"sample_rate_hz": 8000}}, bytes(3200), 2),
        ({"input_audio_params": {"num_channels": 2}}, bytes(2 * 2 * 3200), 2),
        ({"input_audio_format": "g711_ulaw"}, bytes(1600), 2),
        (
            {"input_audio_format": "g711_alaw", "input_audio_params": {"sample_rate_hz": 16_000}},
            bytes(3200),
            2,
        ),
    ],
)
def test_audio_without_a_header(realtime: Any, session: dict[str, Any], data: bytes, words: int) -> None:
    socket = realtime.connect()
    socket.update(**session)
    socket.send_bytes(data, commit=False)
    socket.send("input_audio_buffer.done")
    assert len(socket.until_last()[-1]["transcript"].split()) == words


def test_what_is_cleared_is_not_said(nim: Any, realtime: Any) -> None:
    nim.hear(2 * STEP, commit=False)
    nim.send("input_audio_buffer.clear")
    assert kinds(nim.until("input_audio_buffer.cleared"))[:-1] == [DELTA]
    nim.hear(STEP, commit=False)
    nim.send("input_audio_buffer.done")
    last = nim.until_last()[-1]
    assert last["transcript"] == "one "
    dropped, heard = realtime.service.lives
    assert dropped.closed
    assert heard.samples == STEP


def test_times_go_on_after_a_clear(realtime: Any) -> None:
    socket = realtime.connect()
    socket.update(recognition_config={"enable_word_time_offsets": True})
    socket.hear(2 * STEP, commit=False)
    socket.send("input_audio_buffer.clear")
    socket.hear(STEP, commit=False)
    socket.send("input_audio_buffer.done")
    (word,) = socket.until_last()[-1]["words_info"]["words"]
    assert (word["start_time"], word["end_time"]) == (200, 300)


def test_streams_one_after_another(nim: Any, realtime: Any) -> None:
    for _ in range(2):
        nim.hear(STEP, commit=False)
        nim.send("input_audio_buffer.done")
        assert nim.until_last()[-1]["transcript"] == "one "
    nim.update(recognition_config={"enable_word_time_offsets": True})
    assert [live.closed for live in realtime.service.lives] == [True, True]


def test_the_session_does_not_change_under_a_stream(nim: Any) -> None:
    nim.hear(STEP, commit=False)
    nim.send("transcription_session.update", session={}, event_id="mine")
    assert nim.next()["type"] == DELTA
    error = nim.refused("session_in_use")
    assert error["event_id"] == "mine"


def test_what_is_counted_and_logged(realtime: Any, caplog: Any) -> None:
    with caplog.at_level("INFO", "orchestrator.gateway.access"):
        socket = realtime.connect(headers={"X-Request-ID": "call-7"})
        socket.update()
        socket.hear(STEP)
        socket.send("input_audio_buffer.done")
        socket.until_last()
        socket.leave()
        realtime.settle(logged=caplog.records)
    line = caplog.records[-1].message
    assert '"id": "call-7", "method": "websocket", "route": "/v1/realtime", "status": 1000' in line
    assert '"bytes": 3200, "audio_s": 0.1' in line
    assert "one" not in line
    text = realtime.shared.metrics.text().decode()
    assert 'requests_total{method="websocket",route="/v1/realtime",status="1000"} 1.0' in text
    assert "audio_seconds_total 0.1" in text
    assert "stream_response_seconds_count 1.0" in text
