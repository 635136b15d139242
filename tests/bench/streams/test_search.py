from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bench.streams.search import tries


def search(limit, *, first=8, most=4096, share=0.05, **more):
    return list(tries(lambda number: number <= limit, first=first, most=most, share=share, **more))


@given(st.integers(0, 5000), st.integers(1, 5000), st.integers(1, 4096), st.floats(0, 0.5))
def test_the_highest_good_number_is_known_within_the_share(limit, first, most, share):
    tried = search(limit, first=first, most=most, share=share)
    best = max((number for number, passed in tried if passed), default=0)
    assert best <= min(limit, most)
    assert min(limit, most) <= best + max(1, share * best)
    numbers = [number for number, _ in tried]
    assert len(set(numbers)) == len(numbers)
    assert all(1 <= number <= most for number in numbers)


def test_doubling_then_bisection():
    assert search(37, share=0) == [
        (8, True),
        (16, True),
        (32, True),
        (64, False),
        (48, False),
        (40, False),
        (36, True),
        (38, False),
        (37, True),
    ]


def test_where_the_first_fails_it_goes_down():
    assert search(1, first=8) == [(8, False), (4, False), (2, False), (1, True)]


def test_where_one_fails_nothing_is_good():
    assert search(0, first=2) == [(2, False), (1, False)]


def test_the_highest_number_is_tried_once():
    assert search(10_000, first=8, most=20) == [(8, True), (16, True), (20, True)]


def test_no_try_begins_when_the_time_is_over():
    left = [True, True, False]
    assert search(37, in_time=lambda: left.pop(0)) == [(8, True), (16, True), (32, True)]
