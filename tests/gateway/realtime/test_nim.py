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
