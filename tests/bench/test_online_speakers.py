from __future__ import annotations

import itertools

import numpy as np
import pytest

from orchestrator.bench import online_speakers as bench
from orchestrator.diarization.base import SpeakerTurn
from orchestrator.diarization.labels import NO_SPEAKER
from orchestrator.engines.endpointing import EndpointingOptions


def frames(*runs: tuple[int, int]) -> np.ndarray:
    """``(silent, spoken)`` frames, one pair after the other."""
    return np.concatenate([np.repeat([False, True], run) for run in runs])


@pytest.mark.parametrize(
    ("speech", "spans"),
    [
        (frames((10, 5), (20, 0)), [(800, 1200)]),
        (frames((0, 5), (9, 5), (20, 0)), [(0, 1520)]),  # a pause of 720 ms does not end it
        (frames((3, 5), (15, 4), (0, 0)), [(240, 640), (1840, 2160)]),  # the end does
        (frames((30, 0)), []),
    ],
)
def test_utterances_reach_from_the_first_to_the_last_speech(
    speech: np.ndarray, spans: list[tuple[int, int]]
) -> None:
    assert list(bench._spans(speech, EndpointingOptions())) == spans


def test_long_utterances_are_cut_without_losing_or_repeating_a_frame() -> None:
    spans = list(bench._spans(frames((5, 100), (20, 0)), EndpointingOptions(max_utterance_s=3)))
    assert (spans[0][0], spans[-1][1]) == (400, 8400)
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(spans))
    assert all(end - start <= 3200 for start, end in spans)


def test_speech_of_somebody_unknown_gets_no_credit() -> None:
    turns = (
        SpeakerTurn(0, 1000, 0),
        SpeakerTurn(1000, 2000, NO_SPEAKER),
        SpeakerTurn(3000, 4000, NO_SPEAKER),
    )
    speakers = [speaker for _, _, speaker in bench._scored(turns)]
    assert len(set(speakers)) == 3
