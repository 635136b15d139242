"""The benchmark of live streams against a real server with the small checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path

import psutil
import pytest

from orchestrator.bench.streams import command
from orchestrator.bench.streams.command import Asked
from orchestrator.progress import SilentProgress
from orchestrator.repository.release import ReleaseStore
from orchestrator.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.usefixtures("tritonserver")]


def test_streams_in_real_time_and_the_search(settings: Settings) -> None:
    report = command.run(
        settings,
        Asked(
            streams=(1, 3),
            search_s=0.0,
            seconds=4.0,
            limit_ms=1000.0,
            preset="balanced",
            max_streams=4,
            device="cpu",
            processes=2,
        ),
        progress=SilentProgress(),
    )
    # The search begins with a number that was run, and has time for no other.
    assert [row["streams"] for row in report.rows] == [1, 3]
    for row in report.rows:
        assert row["errors"] == 0
        # 560 ms chunks for 4 s, and what was under way before all streams had begun.
        assert int(str(row["streams"])) * 6 <= row["chunks"] <= int(str(row["streams"])) * 9
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] <= row["max_ms"] <= row["lag_max_ms"]
        assert row["step_ms"] > 0
        assert 1 <= row["batch"] <= row["streams"]
        assert row["resident_mib"] > 100
        assert row["model_cores"] > 0
        assert row["words_s"] > 0.5
    assert re.match(r"Highest number that counts: \d", report.notes[0])
    assert json.loads(json.dumps(report.to_dict()))["rows"][0]["streams"] == 1
    # The home's own releases are as they were, and nothing runs on.
    assert ReleaseStore(settings.paths.home).ids() == ()
    assert not _servers(settings.paths.home)


def test_more_streams_than_there_is_room_for_do_not_count(settings: Settings) -> None:
    report = command.run(
        settings,
        Asked(streams=(5, 2), seconds=3.0, limit_ms=1000.0, max_streams=2, device="cpu", processes=1),
        progress=SilentProgress(),
    )
    few, many = report.rows
    assert (few["streams"], few["errors"]) == (2, 0)
    # Three are refused at once. What they leave takes nothing from the run after them.
    assert many["counts"] == "no"
    assert many["errors"] == 3
    assert "5 streams: errors: 3 x UNAVAILABLE." in report.notes
    assert any("2 live streams" in note for note in report.notes)


def test_clients_that_vanish_leave_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # Longer than a busy machine lets a client wait between two of its chunks.
    monkeypatch.setattr(command, "ABORT_IDLE_S", 6.0)
    report = command.run(
        settings,
        Asked(abort=18, preset="low_latency", max_streams=6, device="cpu"),
        progress=SilentProgress(),
    )
    (row,) = report.rows
    assert row["began"] == 18
    assert row["state_left"] == 0
    assert row["refused"] == 0
    assert row["expired"] == 18
    assert row["gone_after_s"] >= 6
    assert abs(row["growth"]) < 0.05
    assert not _servers(settings.paths.home)


def _servers(home: Path) -> list[psutil.Process]:
    mine = re.compile(re.escape(str(home)))
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if "tritonserver" in (process.info["name"] or "")
        and any(mine.search(word) for word in process.info["cmdline"] or ())
    ]
