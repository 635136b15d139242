"""The bookkeeping of a stream against a server that dies at any moment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.client.stream.replay import Heard, Replay
from orchestrator.engines.base import RecognizedWord
from orchestrator.engines.streaming import StreamSegment, StreamUpdate
from tests.client.stream.simulated import PER_MS, SimulatedStream, say

CHUNK_MS = 80
NOTHING = StreamUpdate((), 0, 0, "en")


class Run:
    """Feeds a `Replay` and steps a server that can be killed before or after it has worked on a piece."""

    def __init__(self, lookahead_ms: int, largest_ms: int = 4 * CHUNK_MS) -> None:
        self.replay = Replay(CHUNK_MS, largest_ms)
        self.finals: list[Heard] = []
        self.heard_to = 0
        self._lookahead = lookahead_ms
        self._server: SimulatedStream | None = None

    def step(self, fate: str = "lives") -> bool:
        piece = self.replay.next_piece()
        if piece is None:
            return False
        assert len(piece.samples) <= 4 * CHUNK_MS * PER_MS
        assert piece.start is (self._server is None)
        server = self._server or SimulatedStream(self._lookahead)
        update = NOTHING
        if fate != "dies before":
            force = piece.force_end_of_utterance
            update = server.step(piece.samples, end=piece.end, force=force)
        if fate != "lives":
            self._server = None
            self.replay.lost()
            return True
        self._server = server
        self.finals += [one for one in self.replay.answered(update) if one.segment.final]
        return True


def drive(script: list[object], audio: np.ndarray, lookahead_ms: int, fates: list[str]) -> Run:
    run = Run(lookahead_ms)
    left, coming = iter(fates), 0
    for act in script:
        if act == "force":
            run.replay.force_end_of_utterance()
        else:
            run.replay.add(audio[coming : coming + int(act)])  # type: ignore[call-overload]
            coming += int(act)  # type: ignore[call-overload]
        while run.step(next(left, "lives")):
            pass
    run.replay.add(audio[coming:])
    run.replay.end()
    while run.step(next(left, "lives")):
        pass
    assert run.replay.finished
    assert run.replay.final == run.replay.received == max(coming, len(audio)) or coming > len(audio)
    return run


WORDS = st.lists(
    st.tuples(st.integers(1, 900), st.integers(40, 400), st.sampled_from([20, 60, 150, 299, 300, 700, 1500])),
    max_size=12,
)
SCRIPT = st.lists(st.one_of(st.integers(0, 20_000), st.just("force")), max_size=20)
FATES = st.lists(st.sampled_from(["lives", "lives", "lives", "dies before", "dies after"]), max_size=40)


@settings(max_examples=300, deadline=None)
@given(WORDS, SCRIPT, st.sampled_from([0, 80, 400]), FATES)
def test_finals_are_the_same_wherever_the_server_dies(
    words: list[tuple[int, int, int]], script: list[object], lookahead_ms: int, fates: list[str]
) -> None:
    audio = say(words)
    whole = drive(script, audio, lookahead_ms, [])
    cut = drive(script, audio, lookahead_ms, fates)
    assert [one.segment for one in cut.finals] == [one.segment for one in whole.finals]
    assert [one.segment.utterance for one in cut.finals] == list(range(len(cut.finals)))
    for one in cut.finals:
        begin, end = one.segment.words[0].start_ms, one.segment.words[-1].end_ms
        assert np.array_equal(one.samples, audio[begin * PER_MS : end * PER_MS])


@settings(max_examples=100, deadline=None)
@given(WORDS, st.lists(st.integers(0, 20_000), max_size=20))
def test_every_word_is_heard(words: list[tuple[int, int, int]], script: list[object]) -> None:
    run = drive(script, say(words), 80, [])
    assert [word.text for one in run.finals for word in one.segment.words] == [
        f"w{word[0]}" for word in words
    ]


def test_what_is_final_is_not_kept_and_silence_neither() -> None:
    run = Run(0)
    for _ in range(20):
        run.replay.add(say([(5, 200, 800)]))
        while run.step():
            pass
        assert run.replay.received - run.replay.final < 16_000
    assert len(run.finals) == 20


def test_a_server_that_is_behind_gets_larger_pieces_but_not_too_large() -> None:
    replay = Replay(80, 400)
    replay.add(np.zeros(79 * PER_MS, np.int16))
    assert replay.next_piece() is None
    replay.add(np.zeros(1 * PER_MS, np.int16))
    piece = replay.next_piece()
    assert piece is not None
    assert (len(piece.samples), piece.start, piece.end) == (80 * PER_MS, True, False)
    replay.add(np.zeros(170 * PER_MS, np.int16))
    replay.answered(NOTHING)
    piece = replay.next_piece()
    assert piece is not None
    assert (len(piece.samples), piece.start) == (160 * PER_MS, False)
    replay.add(np.zeros(5000 * PER_MS, np.int16))
    replay.answered(NOTHING)
    piece = replay.next_piece()
    assert piece is not None
    assert len(piece.samples) == 400 * PER_MS


def test_an_empty_stream_still_opens_and_closes() -> None:
    replay = Replay(80, 400)
    replay.end()
    piece = replay.next_piece()
    assert piece is not None
    assert (len(piece.samples), piece.start, piece.end) == (0, True, True)
    replay.answered(NOTHING)
    assert replay.finished
    assert replay.next_piece() is None


def test_a_stream_that_is_lost_when_all_is_final_need_not_open_again() -> None:
    replay = Replay(80, 400)
    replay.add(np.zeros(80 * PER_MS, np.int16))
    assert replay.next_piece() is not None
    replay.answered(replace(NOTHING, processed_ms=80, final_ms=80))
    replay.end()
    assert replay.next_piece() is not None
    replay.lost()
    assert replay.finished


def test_a_final_that_comes_twice_is_said_once() -> None:
    final = StreamSegment(0, (RecognizedWord("a", 0, 10, 1.0),), True, 1.0)
    replay = Replay(80, 400)
    replay.add(np.zeros(160 * PER_MS, np.int16))
    replay.next_piece()
    assert len(replay.answered(StreamUpdate((final,), 80, 10, "en"))) == 1
    replay.add(np.zeros(160 * PER_MS, np.int16))
    replay.next_piece()
    assert replay.answered(StreamUpdate((final,), 80, 10, "en")) == ()


def test_a_server_cannot_make_final_what_it_was_not_sent() -> None:
    replay = Replay(80, 80)
    replay.add(np.arange(160 * PER_MS, dtype=np.int16))
    replay.next_piece()
    replay.answered(replace(NOTHING, final_ms=10_000))
    replay.lost()
    piece = replay.next_piece()
    assert piece is not None
    assert piece.samples[0] == 80 * PER_MS


def test_signs_of_life() -> None:
    replay = Replay(80, 400)
    assert replay.sign_of_life() is None, "a stream that did not begin has no place to keep"
    replay.add(np.zeros(80 * PER_MS, np.int16))
    assert replay.next_piece() is not None
    replay.answered(replace(NOTHING, final_ms=80))
    piece = replay.sign_of_life()
    assert piece is not None
    assert (len(piece.samples), piece.start, piece.end) == (0, False, False)
    replay.lost()
    piece = replay.sign_of_life()
    assert piece is not None
    assert piece.start
    replay.answered(NOTHING)
    replay.end()
    assert replay.next_piece() is not None
    replay.answered(NOTHING)
    assert replay.sign_of_life() is None


def test_an_answer_to_nothing_is_a_fault() -> None:
    with pytest.raises(ValueError, match="under way"):
        Replay(80, 400).answered(NOTHING)
