"""The benchmark of speed against a real server, small."""

from __future__ import annotations

import json

import pytest

from orchestrator.bench.throughput.command import Asked, run
from orchestrator.progress import SilentProgress
from orchestrator.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_every_row_of_the_page(settings: Settings) -> None:
    asked = Asked(
        batches=(1, 2), clip_s=4.0, repeats=1, rounds=1, fill=2, long_s=40.0, clients=2, device="cpu"
    )
    report = run(settings, asked, progress=SilentProgress())
    rows = {(str(row["what"]), row["batch"]): row for row in report.rows}
    assert json.loads(json.dumps(report.to_dict()))["rows"] == list(report.rows)
    here = rows["engine in this process", 2]
    (through,) = [row for (what, _), row in rows.items() if what == "through Triton"]
    assert through["audio_s"] == 16.0
    assert through["batch"] is not None
    assert 1 <= float(through["batch"]) <= 2
    assert through["versus_engine"] is not None
    for row in (here, through):
        assert row["words_per_s"] is not None
        assert 1 < float(row["words_per_s"]) < 6, "both sides hear speech"
    texts = " ".join(what for what, _ in rows)
    for part in ("transport alone", "time in the server", "time for its client", "SpeechClient"):
        assert part in texts
    long = next(row for (what, _), row in rows.items() if "SpeechClient" in what)
    assert (long["clip_s"], long["client_cores"] is not None) == (40.0, True)
