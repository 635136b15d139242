"""Updates of live streams on the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backend import updates
from orchestrator.engines.base import RecognizedWord
from orchestrator.engines.streaming import StreamSegment, StreamUpdate

TIMES = st.integers(0, 2**40)
SURE = st.integers(0, 10_000).map(lambda parts: parts / 10_000)
WORDS = st.builds(
    lambda text, times, sure: RecognizedWord(text, min(times), max(times), sure),
    st.text(),
    st.tuples(TIMES, TIMES),
    SURE,
)
SEGMENTS = st.builds(
    StreamSegment,
    utterance=st.integers(0, 10**6),
    words=st.lists(WORDS, max_size=4).map(tuple),
    final=st.booleans(),
    stability=SURE,
)
UPDATES = st.builds(
    lambda segments, times, language: StreamUpdate(segments, max(times), min(times), language),
    st.lists(SEGMENTS, max_size=3).map(tuple),
    st.tuples(TIMES, TIMES),
    st.text(max_size=8),
)


@given(UPDATES.filter(lambda update: max(update.language + "a") < "\ud800"))
def test_what_is_written_is_read(update: StreamUpdate) -> None:
    assert updates.decode(updates.encode(update)) == update


GOOD: dict[str, Any] = {
    "processed_ms": 80,
    "final_ms": 0,
    "language": "en",
    "segments": [{"utterance": 0, "final": False, "stability": 0.5, "words": [["a", 0, 80, 0.5]]}],
}
SEGMENT: dict[str, Any] = GOOD["segments"][0]


@pytest.mark.parametrize(
    "wrong",
    [
        {**GOOD, "final_ms": 81},
        {**GOOD, "final_ms": -1},
        {**GOOD, "language": None},
        {**GOOD, "processed_ms": None},
        {**GOOD, "segments": 5},
        {**GOOD, "segments": [5]},
        {**GOOD, "segments": [{**SEGMENT, "utterance": -1}]},
        {**GOOD, "segments": [{**SEGMENT, "utterance": "0"}]},
        {**GOOD, "segments": [{**SEGMENT, "final": 1}]},
        {**GOOD, "segments": [{**SEGMENT, "stability": 1.5}]},
        {**GOOD, "segments": [{**SEGMENT, "words": [["a", 80, 0, 0.5]]}]},
        {**GOOD, "segments": [{**SEGMENT, "words": [["a", 0, 80, 1.5]]}]},
        {**GOOD, "segments": [{**SEGMENT, "words": [["a", 0, 80]]}]},
        {**GOOD, "segments": [{**SEGMENT, "words": [[7, 0, 80, 0.5]]}]},
        {"processed_ms": 80},
        [],
        7,
    ],
)
def test_what_makes_no_sense_is_refused(wrong: object) -> None:
    assert updates.decode(json.dumps(GOOD).encode()).processed_ms == 80
    with pytest.raises(ValueError, match=r".+"):
        updates.decode(json.dumps(wrong).encode())


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_bytes_that_are_no_json_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        updates.decode(content)
