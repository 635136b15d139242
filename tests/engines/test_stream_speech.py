"""Frames of speech as the recogniser asks for them, from a detector that says what its samples hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engines import stream_speech, vad
from orchestrator.engines.endpointing import EndpointingOptions
from orchestrator.engines.stream_speech import StreamSpeech
from orchestrator.errors import UnsupportedModelError

FRAME = vad.FRAME
OPTIONS = EndpointingOptions(speech_from="vad")


class Detector:
    """The probability of a frame is its first sample's value."""

    made = 0

    def __init__(self, places: int, device: torch.device) -> None:
        type(self).made += 1
        self.heard: list[np.ndarray] = [np.zeros(0, np.float32)] * places
        self.told = [0] * places

    def reset(self, place: int) -> None:
        self.heard[place] = np.zeros(0, np.float32)
        self.told[place] = 0

    def push(self, places, samples):
        found = []
        for place, new in zip(places, samples, strict=True):
            self.heard[place] = np.concatenate((self.heard[place], new))
            values = self.heard[place][::FRAME][: self.heard[place].size // FRAME]
            found.append(values[self.told[place] :])
            self.told[place] = len(values)
        return found


@pytest.fixture
def speech(monkeypatch) -> StreamSpeech:
    monkeypatch.setattr(stream_speech.vad, "VoiceActivity", Detector)
    monkeypatch.setattr(Detector, "made", 0)
    return StreamSpeech(4, torch.device("cpu"), FRAME)


def audio(*probabilities: float) -> np.ndarray:
    return np.repeat(np.array(probabilities, np.float32), FRAME)


def test_frames_wait_until_they_are_asked_for(speech):
    speech.open(1, OPTIONS)
    speech.push([(1, audio(0.9, 0.9, 0.1, 0.9))])
    assert speech.take(1, 0, 3).tolist() == [True, True, False]
    speech.push([(1, audio(0.1))])
    assert speech.take(1, 3, 2).tolist() == [True, False]


def test_places_are_apart_and_a_new_stream_is_new(speech):
    speech.open(0, OPTIONS)
    speech.open(2, OPTIONS)
    speech.push([(0, audio(0.9, 0.9)), (2, audio(0.1, 0.1, 0.9))])
    assert speech.take(0, 0, 1).tolist() == [True]
    assert speech.take(2, 0, 3).tolist() == [False, False, True]
    speech.open(0, OPTIONS)
    speech.push([(0, audio(0.4, 0.1))])
    # 0.4 lasts but does not begin: the ended stream's speech does not count.
    assert speech.take(0, 0, 2).tolist() == [False, False]


def test_the_options_say_which_probabilities_are_speech(speech):
    speech.open(0, OPTIONS.model_copy(update={"vad_onset": 0.8, "vad_offset": 0.2}))
    speech.push([(0, audio(0.7, 0.9, 0.3, 0.1))])
    assert speech.take(0, 0, 4).tolist() == [False, True, True, False]


def test_a_frame_that_is_not_complete_is_as_the_one_before(speech):
    speech.open(0, OPTIONS)
    speech.push([(0, np.concatenate((audio(0.1, 0.9), audio(0.1)[:100])))])
    # A forced end takes the begun frame as well.
    assert speech.take(0, 0, 3).tolist() == [False, True, True]
    # What the detector says of it later is not taken for the frame after it.
    speech.push([(0, np.concatenate((audio(0.9)[100:], audio(0.1, 0.9))))])
    assert speech.take(0, 3, 2).tolist() == [False, True]


@given(
    st.lists(st.booleans(), max_size=40),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=9),
)
def test_each_frame_is_told_once_whatever_the_pace(frames, paces):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_speech.vad, "VoiceActivity", Detector)
        speech = StreamSpeech(1, torch.device("cpu"), FRAME)
        speech.open(0, OPTIONS)
        pushed = 0
        found: list[bool] = []
        for more, count in [*paces, (len(frames), len(frames))]:
            new = frames[pushed : pushed + more]
            speech.push([(0, audio(*(0.9 * spoken for spoken in new)))])
            pushed += len(new)
            found += speech.take(0, len(found), min(count, pushed - len(found))).tolist()
        assert found == frames


def test_the_detector_is_loaded_with_the_first_stream(speech):
    speech.push([])
    assert Detector.made == 0
    speech.open(0, OPTIONS)
    speech.open(1, OPTIONS)
    assert Detector.made == 1


def test_frames_of_another_length_are_refused():
    with pytest.raises(UnsupportedModelError, match="640"):
        StreamSpeech(1, torch.device("cpu"), 640).open(0, OPTIONS)
