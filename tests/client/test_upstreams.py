"""The choice between several servers, without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.client.upstreams import Place, Upstreams
from orchestrator.errors import ConfigurationError


def ready(*names: str) -> Upstreams:
    upstreams = Upstreams(names)
    for name in names:
        upstreams.checked(name, {"ears", "echo"})
    return upstreams


def take(upstreams: Upstreams, model: str = "ears", now: float = 0.0, avoid: tuple[str, ...] = ()) -> str:
    place = upstreams.take(model, now, avoid)
    assert place is not None
    return place.upstream


@given(st.integers(2, 5), st.lists(st.integers(0, 30), max_size=60))
def test_work_is_even_whatever_ends_first(servers: int, moves: list[int]) -> None:
    """After any takes and returns, the next place is at a server that has the fewest."""
    upstreams = ready(*(f"s{number}" for number in range(servers)))
    held: list[Place] = []
    for move in moves:
        if move % 3 == 0 and held:
            upstreams.give_back(held.pop(move % len(held)))
            continue
        least = min(upstreams.outstanding(name) for name in upstreams)
        place = upstreams.take("ears", 0.0)
        assert place is not None
        assert upstreams.outstanding(place.upstream) == least + 1
        held.append(place)
    assert sum(upstreams.outstanding(name) for name in upstreams) == len(held)
    for place in held:
        upstreams.give_back(place)
    assert all(upstreams.outstanding(name) == 0 for name in upstreams)


def test_one_after_the_other_goes_round() -> None:
    upstreams = ready("a", "b", "c")
    order = []
    for _ in range(6):
        place = upstreams.take("ears", 0.0)
        assert place is not None
        order.append(place.upstream)
        upstreams.give_back(place)
    assert order == ["a", "b", "c", "a", "b", "c"]


def test_a_models_own_work_counts_first() -> None:
    """Many small requests of one model say little of another."""
    upstreams = ready("a", "b")
    for _ in range(3):
        assert upstreams.take("echo", 0.0, avoid=("b",)) == Place("a", "echo")
    assert take(upstreams, "ears") == "b", "no stream anywhere: the one with less of anything"
    assert take(upstreams, "ears") == "a", "a stream at b, none at a"


def test_who_has_the_model_and_is_there_comes_first() -> None:
    upstreams = Upstreams(["gone", "unknown", "other", "able"])
    upstreams.away("gone")
    upstreams.checked("other", {"echo"})
    upstreams.checked("able", {"ears"})
    order: list[str] = []
    while (place := upstreams.take("ears", 0.0, order)) is not None:
        order.append(place.upstream)
    assert order == ["able", "other", "unknown", "gone"]
    upstreams.checked("gone", {"ears"})
    assert take(upstreams, avoid=("able",)) == "gone", "it is back"


def test_who_fails_is_left_alone_for_longer_each_time() -> None:
    upstreams = ready("a", "b")
    assert take(upstreams, avoid=("a",)) == "b"
    upstreams.failed("a", 10.0)
    assert take(upstreams, now=10.9) == "b", "although b has more to do"
    assert take(upstreams, now=11.1) == "a"
    upstreams.failed("a", 20.0)
    assert take(upstreams, now=21.9) == "b"
    assert take(upstreams, now=22.1) == "a"
    for _ in range(40):
        upstreams.failed("a", 100.0)
    assert take(upstreams, now=159.0) == "b"
    assert take(upstreams, now=159.0, avoid=("b",)) == "a", "better than nobody"
    upstreams.worked("a")
    upstreams.failed("a", 200.0)
    assert take(upstreams, now=201.1) == "a", "what worked in between starts anew"


def test_names() -> None:
    assert list(Upstreams(["b:1", "a:1"])) == ["b:1", "a:1"]
    with pytest.raises(ConfigurationError, match="a:1 is named twice"):
        Upstreams(["a:1", "b:1", "a:1"])
    with pytest.raises(ConfigurationError, match="no upstream"):
        Upstreams([])
