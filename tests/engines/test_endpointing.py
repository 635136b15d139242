from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engines.endpointing import Endpoint, Endpointer, EndpointingOptions

FRAME_MS = 80


def frames(text: str) -> np.ndarray:
    """``#`` is speech, ``.`` is not."""
    return np.array([mark == "#" for mark in text], bool)


def found(text: str, **options: object) -> list[tuple[int, str]]:
    endpointer = Endpointer(EndpointingOptions(**options), FRAME_MS)
    return [(end.frame, end.kind) for end in endpointer.push(frames(text))]


def window(history_ms: int, threshold: float, frame_ms: int) -> tuple[int, int]:
    """Frames of a history and how many of them are asked for."""
    size = next(n for n in range(1, 100_000) if n * frame_ms >= history_ms)
    return size, max(1, int((Decimal(str(threshold)) * size).to_integral_value(ROUND_CEILING)))


@dataclass
class Reference:
    """The rules told again with slices of lists: slow, and nothing carried over but the past."""

    options: EndpointingOptions
    frame_ms: int
    past: list[bool] = field(default_factory=list)
    since: int = 0
    """The frame after the last start or stop."""
    inside: bool = False

    def last(self, history_ms: int, threshold: float, kind: bool) -> bool:
        size, needed = window(history_ms, threshold, self.frame_ms)
        seen = self.past[self.since :][-size:]
        return sum(1 for spoken in seen if spoken is kind) >= needed

    def eou(self) -> bool:
        options = self.options
        if not self.inside or options.stop_history_eou_ms is None or not self.past or self.past[-1]:
            return False
        threshold = options.stop_threshold_eou
        threshold = options.stop_threshold if threshold is None else threshold
        return self.last(options.stop_history_eou_ms, threshold, False)

    def take(self, spoken: bool) -> list[Endpoint]:
        options, number, before = self.options, len(self.past), self.eou()
        self.past.append(spoken)
        if not self.inside:
            if spoken and self.last(options.start_history_ms, options.start_threshold, True):
                self.since, self.inside = number + 1, True
                return [Endpoint(number, "start")]
            return []
        if not spoken and self.last(options.stop_history_ms, options.stop_threshold, False):
            self.since, self.inside = number + 1, False
            return [Endpoint(number, "stop")]
        return [Endpoint(number, "eou")] if self.eou() and not before else []

    def force(self, frame: int) -> list[Endpoint]:
        again, self.past = self.past[frame:], self.past[:frame]
        result = [Endpoint(frame, "stop")] if self.inside else []
        self.since, self.inside = frame, False
        for spoken in again:
            result += self.take(spoken)
        return result


thresholds = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.98, 1.0]) | st.floats(0, 1)
histories = st.integers(1, 1500)
options_strategy = st.builds(
    EndpointingOptions,
    start_history_ms=histories,
    start_threshold=thresholds,
    stop_history_ms=histories,
    stop_threshold=thresholds,
    stop_history_eou_ms=st.none() | histories,
    stop_threshold_eou=st.none() | thresholds,
)
# Runs of speech and of silence: independent frames would hardly ever fill a window of ten.
runs = st.lists(st.tuples(st.booleans(), st.integers(1, 25)), max_size=20).map(
    lambda parts: [spoken for spoken, length in parts for _ in range(length)]
)


@given(options_strategy, st.sampled_from([10, 20, 80, 100]), runs)
def test_endpoints_are_those_of_the_reference(options, frame_ms, speech):
    reference = Reference(options, frame_ms)
    endpointer = Endpointer(options, frame_ms)
    for spoken in speech:
        assert endpointer.push(np.array([spoken])) == reference.take(spoken)
        assert endpointer.in_utterance is reference.inside
        assert endpointer.stable is reference.eou()


@given(options_strategy, runs, st.data())
def test_the_cut_into_pushes_changes_nothing(options, speech, data):
    whole = Endpointer(options, FRAME_MS).push(np.array(speech, bool))
    pieces, endpointer, begin = [], Endpointer(options, FRAME_MS), 0
    while begin < len(speech):
        end = begin + data.draw(st.integers(0, 7))
        pieces += endpointer.push(np.array(speech[begin:end], bool))
        begin = end
    assert pieces == whole


@given(options_strategy, runs)
def test_starts_and_stops_alternate_in_order(options, speech):
    ends = Endpointer(options, FRAME_MS).push(np.array(speech, bool))
    assert [end.frame for end in ends] == sorted({end.frame for end in ends})
    turns = [end.kind for end in ends if end.kind != "eou"]
    assert turns == (["start", "stop"] * len(turns))[: len(turns)]
    inside = False
    for end in ends:
        assert end.kind != "eou" or inside
        inside = end.kind != "stop"


@given(options_strategy, runs, runs, st.data())
def test_force_is_an_end_at_its_frame(options, before, after, data):
    reference, endpointer = Reference(options, FRAME_MS), Endpointer(options, FRAME_MS)
    for spoken in before:
        reference.take(spoken)
    endpointer.push(np.array(before, bool))
    reachable = int(options.max_utterance_s * 1000 / FRAME_MS)
    frame = data.draw(st.integers(max(0, len(before) - reachable), len(before)))
    assert endpointer.force(frame) == reference.force(frame)
    assert endpointer.in_utterance is reference.inside
    later = [end for spoken in after for end in reference.take(spoken)]
    assert endpointer.push(np.array(after, bool)) == later


@given(options_strategy, runs, runs, st.integers(0, 1000))
def test_reset_leaves_nothing_behind(options, before, after, frame):
    used, new = Endpointer(options, FRAME_MS), Endpointer(options, FRAME_MS)
    used.push(np.array(before, bool))
    used.reset(frame)
    expected = [Endpoint(end.frame + frame, end.kind) for end in new.push(np.array(after, bool))]
    assert used.push(np.array(after, bool)) == expected


def test_defaults_start_at_the_first_speech_and_stop_after_800_ms_of_silence():
    # 0.2 of four frames is one frame; 0.98 of ten frames is all ten.
    assert found("...#.#.........." + "#" * 3 + "." * 10) == [
        (3, "start"),
        (15, "stop"),
        (16, "start"),
        (28, "stop"),
    ]


def test_no_stop_without_speech_before():
    assert found("." * 200) == []


def test_silence_before_an_utterance_does_not_end_it():
    text = "." * 20 + "#...."
    assert found(text, stop_threshold=0.5) == [(20, "start")]
    assert found(text + ".", stop_threshold=0.5) == [(20, "start"), (25, "stop")]


def test_speech_of_an_ended_utterance_does_not_begin_the_next():
    options = {"start_history_ms": 800, "start_threshold": 0.3, "stop_history_ms": 160}
    assert found("#####..#", **options) == [(2, "start"), (6, "stop")]
    assert found("#####..###", **options)[-1] == (9, "start")


def test_eou_comes_before_the_stop_and_speech_takes_it_back():
    options = EndpointingOptions(stop_history_eou_ms=240, stop_threshold_eou=0.98)
    endpointer = Endpointer(options, FRAME_MS)
    assert endpointer.push(frames("#...")) == [Endpoint(0, "start"), Endpoint(3, "eou")]
    assert endpointer.stable
    assert endpointer.push(frames("#")) == []
    assert not endpointer.stable
    assert endpointer.push(frames("...")) == [Endpoint(7, "eou")]
    assert endpointer.push(frames("." * 7)) == [Endpoint(14, "stop")]
    assert not endpointer.stable


def test_without_an_eou_history_there_is_no_eou():
    assert found("#" + "." * 20, stop_threshold_eou=0.1) == [(0, "start"), (10, "stop")]


def test_eou_without_a_threshold_takes_that_of_the_stop():
    assert found("#....", stop_history_eou_ms=320, stop_threshold=0.5) == [(0, "start"), (2, "eou")]


def test_a_stop_replaces_the_eou_of_its_frame():
    assert found("#..", stop_history_ms=160, stop_history_eou_ms=160) == [(0, "start"), (2, "stop")]


def test_a_history_is_rounded_up_to_whole_frames():
    # 250 ms are four frames of 80 ms.
    assert found("#" + "." * 5, stop_history_ms=250) == [(0, "start"), (4, "stop")]
    assert found("#" + "." * 5, stop_history_ms=1) == [(0, "start"), (1, "stop")]


def test_a_threshold_is_a_decimal_share():
    # 0.1 of thirty frames is three frames, although 0.1 * 30 > 3 in binary.
    assert found("##.#", start_history_ms=2400, start_threshold=0.1) == [(3, "start")]


def test_a_threshold_of_zero_asks_for_one_frame_and_one_for_all():
    assert found("..#.", start_threshold=0, stop_threshold=0) == [(2, "start"), (3, "stop")]
    assert found("#" + "." * 10, stop_threshold=1) == [(0, "start"), (10, "stop")]


def test_force_gives_later_speech_to_the_next_utterance():
    endpointer = Endpointer(EndpointingOptions(), FRAME_MS)
    endpointer.push(frames("..####.##"))
    assert endpointer.force(7) == [Endpoint(7, "stop"), Endpoint(7, "start")]
    assert endpointer.in_utterance


def test_force_outside_an_utterance_says_nothing():
    endpointer = Endpointer(EndpointingOptions(), FRAME_MS)
    endpointer.push(frames("..."))
    assert endpointer.force(3) == []


def test_force_cannot_end_what_has_not_come():
    endpointer = Endpointer(EndpointingOptions(), FRAME_MS)
    endpointer.push(frames("##"))
    with pytest.raises(ValueError, match="frame 3: 2 frames are known"):
        endpointer.force(3)
