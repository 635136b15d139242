from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bench.streams.figures import ChunkTimes, figures, growing, percentile

CHUNK_MS = 160


def run(latency_ms, *, streams=10, seconds=20.0, late_ms=0.0, **changes):
    """Figures of streams whose answers take ``latency_ms(due)``."""
    due = np.concatenate(
        [np.arange(CHUNK_MS / 1000, seconds, CHUNK_MS / 1000) + 0.016 * stream for stream in range(streams)]
    )
    sent = due + late_ms / 1000
    done = sent + np.array([latency_ms(at) for at in due]) / 1000
    arguments = {
        "streams": streams,
        "chunk_ms": CHUNK_MS,
        "limit_ms": 100.0,
        "begin_s": 0.0,
        "end_s": seconds,
    } | changes
    return figures(ChunkTimes(due, sent, done), arguments.pop("errors", {}), **arguments)


def test_an_even_run_counts():
    found = run(lambda at: 40.0)
    assert found.fault is None
    assert found.streams == 10
    assert found.p50 == pytest.approx(40)
    assert found.p99 == pytest.approx(40)
    assert found.lag_p95 == pytest.approx(40)
    assert not found.growing


def test_percentiles_are_nearest_rank():
    values = np.arange(1.0, 101.0)
    assert percentile(values, 50) == 50
    assert percentile(values, 95) == 95
    assert percentile(values, 99) == 99
    assert percentile(values, 100) == 100
    assert percentile(np.array([7.0]), 50) == 7
    assert percentile(np.zeros(0), 50) is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.floats(1, 100))
def test_a_percentile_is_the_smallest_value_that_covers_its_share(values, share):
    found = percentile(np.array(values), share)
    at_most = sum(value <= found for value in values)
    below = sum(value < found for value in values)
    assert found in values
    assert at_most / len(values) * 100 >= share - 1e-6
    assert below / len(values) * 100 < share + 1e-6


def test_latency_is_from_sending_and_lag_from_the_audio():
    found = run(lambda at: 40.0, late_ms=30.0)
    assert found.p95 == pytest.approx(40)
    assert found.lag_p95 == pytest.approx(70)
    assert found.late_p95 == pytest.approx(30)


def test_p95_of_the_second_half_decides():
    slow_start = run(lambda at: 500.0 if at < 5 else 40.0)
    assert slow_start.p95 == pytest.approx(500)
    assert slow_start.fault is None
    slow_end = run(lambda at: 40.0 if at < 15 else 120.0)
    assert slow_end.fault == "p95 120 ms over 100"


def test_lag_that_grows_spoils_a_run():
    # Each chunk is answered fast, but is sent later and later.
    due = np.arange(0.16, 20, 0.16)
    sent = due * 1.02
    found = figures(
        ChunkTimes(due, sent, sent + 0.05),
        {},
        streams=1,
        chunk_ms=CHUNK_MS,
        limit_ms=100,
        begin_s=0,
        end_s=20,
    )
    assert found.p95_second_half == pytest.approx(50)
    assert found.growing
    assert found.fault == "lag grows"


def test_a_steady_delay_does_not_grow():
    rng = np.random.default_rng(3)
    due = np.sort(rng.uniform(0, 20, 3000))
    times = ChunkTimes(due, due, due + rng.uniform(0.02, 0.09, due.size))
    assert not growing(times, CHUNK_MS, 0, 20)


def test_a_few_slow_answers_are_no_growth():
    due = np.arange(0.56, 8, 0.56)
    slow = np.where((due > 2) & (due < 2.5), 300, 40) + np.where(due > 6, 100, 0)
    times = ChunkTimes(due, due, due + slow / 1000)
    assert not growing(times, 560, 0, 8)


def test_streams_that_stay_behind_spoil_a_run():
    found = run(lambda at: 40.0, late_ms=230.0)
    assert not found.growing
    assert found.fault == "lag p95 270 ms, more than a chunk behind"


def test_errors_spoil_a_run():
    found = run(lambda at: 40.0, errors={"UNAVAILABLE": 2, "INTERNAL": 1})
    assert found.errors == 3
    assert found.fault == "errors: 1 x INTERNAL, 2 x UNAVAILABLE"


def test_a_run_without_answers_does_not_count():
    empty = np.zeros(0)
    found = figures(
        ChunkTimes(empty, empty, empty),
        {},
        streams=3,
        chunk_ms=CHUNK_MS,
        limit_ms=100,
        begin_s=0,
        end_s=20,
    )
    assert found.fault == "no answers"
    assert found.p50 is None
    assert found.chunks == 0


def test_chunks_before_all_streams_are_there_are_left_out():
    assert run(lambda at: 900.0 if at < 2 else 40.0, begin_s=2.0).highest == pytest.approx(40)


def test_clients_are_joined():
    one = ChunkTimes(np.array([1.0]), np.array([2.0]), np.array([3.0]))
    two = ChunkTimes(np.array([4.0, 5.0]), np.array([6.0, 7.0]), np.array([8.0, 9.0]))
    both = ChunkTimes.joined([one, two])
    assert both.due.tolist() == [1, 4, 5]
    assert both.sent.tolist() == [2, 6, 7]
    assert both.done.tolist() == [3, 8, 9]
    assert ChunkTimes.joined([]).due.size == 0
