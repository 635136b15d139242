from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bench.throughput.rows import latencies, percentile, timed


def test_a_batch_is_its_audio_over_the_median_time() -> None:
    row = timed("engine", 20.0, 8, [2.0, 1.0, 9.0], words=400).row()
    assert (row["audio_s"], row["wall_s"], row["RTFx"], row["words_per_s"]) == (160.0, 2.0, 80.0, 2.5)
    assert row["p50_ms"] is None


def test_single_recordings_have_percentiles() -> None:
    row = latencies("alone", 10.0, [*range(1, 51)]).row()
    assert (row["p50_ms"], row["p95_ms"]) == (25.5, 48)
    assert row["RTFx"] == pytest.approx(10_000 / 25.5, abs=0.1)


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=60), st.floats(1, 100))
def test_a_percentile_is_the_least_value_that_covers_its_share(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert sum(value <= found for value in values) >= len(values) * share / 100 - 1e-9
    smaller = [value for value in values if value < found]
    assert not smaller or len(smaller) < len(values) * share / 100


def test_all_rows_have_the_same_columns() -> None:
    assert timed("a", 1.0, 2, [1.0], 3).row().keys() == latencies("b", 1.0, [1.0]).row().keys()
