"""When a lost stream is tried again, and when not: no clock but the one it is told."""

from __future__ import annotations

import random

import pytest

from orchestrator.client.retry import RetryPolicy
from orchestrator.client.stream.events import Reconnected
from orchestrator.client.stream.outage import Outages
from orchestrator.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    ModelNotReadyError,
    RequestTimeoutError,
    ServerUnavailableError,
    SpeechError,
    StreamLimitError,
    StreamLostError,
    UnsupportedLanguageError,
)

AWAY = ServerUnavailableError("away")
LOST = StreamLostError("lost")


def outages(retries: int = 5, limit_s: float = 10.0, *, began: bool = True) -> Outages:
    retry = RetryPolicy(retries, first_s=1.0, longest_s=4.0, random=random.Random(1))
    made = Outages(opening=retry, retry=retry, limit_s=limit_s)
    if began:
        assert made.answered(0.0, 100, 0) is None
    return made


@pytest.mark.parametrize(
    "error", [LOST, StreamLimitError("full"), ModelNotReadyError("not yet"), RequestTimeoutError("late")]
)
def test_before_it_began_the_error_of_a_server_that_is_there_is_told(error: SpeechError) -> None:
    with pytest.raises(type(error)):
        outages(began=False).wait_s(error, 0.0, 0)


def test_a_server_that_goes_away_before_it_began_is_tried_as_for_a_request() -> None:
    made = outages(retries=3, began=False)
    waits = [made.wait_s(error, 0.0, 0) for error in (AWAY, AWAY, ModelNotReadyError("not yet"))]
    assert all(low <= wait <= high for wait, low, high in zip(waits, (0.5, 1, 2), (1, 2, 4), strict=True))
    with pytest.raises(ServerUnavailableError):
        made.wait_s(AWAY, 0.0, 0)


def test_a_stream_that_began_late_was_not_away() -> None:
    made = outages(retries=2, began=False)
    made.wait_s(AWAY, 0.0, 0)
    assert made.answered(1.0, 100, 0) is None
    assert [made.wait_s(AWAY, 2.0, 100) > 0 for _ in range(2)] == [True, True], "all its tries are left"


@pytest.mark.parametrize("error", [InvalidRequestError("bad"), UnsupportedLanguageError("kn")])
def test_what_trying_again_cannot_heal(error: SpeechError) -> None:
    with pytest.raises(type(error)):
        outages().wait_s(error, 1.0, 100)


def test_waits_grow_and_end_with_the_tries() -> None:
    tried = outages(retries=4, limit_s=1000)
    waits = [tried.wait_s(AWAY, 1.0, 100) for _ in range(4)]
    assert all(
        low <= wait <= high for wait, low, high in zip(waits, (0.5, 1, 2, 2), (1, 2, 4, 4), strict=True)
    )
    with pytest.raises(ServerUnavailableError):
        tried.wait_s(AWAY, 1.0, 100)


def test_the_time_ends_it_too() -> None:
    tried = outages(retries=1000, limit_s=10)
    assert tried.wait_s(AWAY, 5.0, 100) > 0
    assert tried.wait_s(AWAY, 12.0, 100) > 0
    with pytest.raises(ServerUnavailableError):
        tried.wait_s(AWAY, 14.8, 100)


def test_a_stream_that_was_forgotten_is_tried_again_at_once() -> None:
    tried = outages()
    assert tried.wait_s(LOST, 1.0, 100) == 0
    assert tried.wait_s(LOST, 1.0, 100) > 0


def test_a_server_that_comes_back_may_not_know_its_models_yet() -> None:
    with pytest.raises(ModelNotFoundError):
        outages().wait_s(ModelNotFoundError("no"), 1.0, 100)
    tried = outages()
    tried.wait_s(AWAY, 1.0, 100)
    assert tried.wait_s(ModelNotFoundError("no"), 1.5, 100) > 0


def test_coming_back_is_told_once_with_what_it_cost() -> None:
    tried = outages()
    tried.wait_s(AWAY, 10.0, 48_000)
    tried.wait_s(AWAY, 10.5, 48_000)
    assert tried.answered(12.0, 16_000 + 2560, 16_000) == Reconnected(2.0, 2.0)
    assert tried.answered(12.1, 16_000 + 5120, 16_000) is None


def test_tries_count_until_the_stream_is_further_than_it_was() -> None:
    """A server that dies of a stream each time it is sent again must not be sent it for ever."""
    tried = outages(retries=2, limit_s=1000)
    for _ in range(2):
        tried.wait_s(AWAY, 1.0, 500)
        assert tried.answered(1.0, 400, 0) is not None
    with pytest.raises(ServerUnavailableError):
        tried.wait_s(AWAY, 1.0, 500)

    tried = outages(retries=2, limit_s=1000)
    for step in range(20):
        tried.wait_s(AWAY, 1.0, 500 + step)
        assert tried.answered(1.0, 501 + step, 0) is not None


def test_a_server_that_is_there_and_loses_it_each_time() -> None:
    tried = outages(retries=1000, limit_s=1000)
    for _ in range(6):
        tried.wait_s(LOST, 1.0, 500)
    with pytest.raises(StreamLostError):
        tried.wait_s(LOST, 1.0, 500)
