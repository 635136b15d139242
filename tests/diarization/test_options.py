from __future__ import annotations

import pytest

from orchestrator.diarization import DiarizationOptions
from orchestrator.errors import ConfigurationError


@pytest.mark.parametrize(
    "bounds",
    [
        {},
        {"num_speakers": 2},
        {"min_speakers": 2, "max_speakers": 2},
        {"min_speakers": 1, "num_speakers": 2, "max_speakers": 3},
    ],
)
def test_bounds_that_agree_pass(bounds: dict[str, int]) -> None:
    DiarizationOptions(**bounds).check()


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"min_speakers": 3, "max_speakers": 2}, "min_speakers is 3, more than max_speakers, which is 2"),
        ({"num_speakers": 3, "max_speakers": 2}, "num_speakers is 3, more than max_speakers"),
        ({"num_speakers": 1, "min_speakers": 2}, "min_speakers is 2, more than num_speakers"),
    ],
)
def test_bounds_that_contradict_are_named(bounds: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DiarizationOptions(**bounds).check()


def test_a_local_window_takes_no_number_of_speakers() -> None:
    DiarizationOptions(mode="local").check()
    with pytest.raises(ConfigurationError, match='"local" takes no number of speakers'):
        DiarizationOptions(mode="local", max_speakers=2).check()
