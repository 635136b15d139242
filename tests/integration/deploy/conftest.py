"""Throw-away hosts for the tests of deployment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bed import Bed
from tests.bed.machine import BedUnavailableError

MakeBed = Callable[..., Bed]


@pytest.fixture
def make_bed(test_cache: Path) -> Iterator[MakeBed]:
    """Make a bed of some hosts, booted; closed when the test ends, however it ends."""
    beds: list[Bed] = []

    def make(count: int, **options: Any) -> Bed:
        try:
            bed = Bed(count, cache=test_cache, **options)
        except BedUnavailableError as reason:
            pytest.skip(str(reason))
        beds.append(bed)
        return bed.start()

    yield make
    for bed in beds:
        bed.close()
