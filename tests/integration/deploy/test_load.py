"""Many rollouts and rollbacks under constant use. The figures of docs/deploy.md come from here:

    SPARK_SPEECH_DEPLOY_ALL=1 SPARK_SPEECH_DEPLOY_ROLLOUTS=20 SPARK_SPEECH_DEPLOY_ROLLBACKS=5 \\
    SPARK_SPEECH_DEPLOY_REPORT=figures.json python -m pytest tests/integration/deploy/test_load.py
"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.deploy.conftest import MakeFleet, slow
from tests.integration.deploy.load import Load
from tests.integration.deploy.releases import Releases

pytestmark = [pytest.mark.integration, pytest.mark.timeout(4 * 3600), slow]

ROLLOUTS = int(os.environ.get("SPARK_SPEECH_DEPLOY_ROLLOUTS", "3"))
ROLLBACKS = int(os.environ.get("SPARK_SPEECH_DEPLOY_ROLLBACKS", "1"))


def test_nothing_is_lost_in_many_rollouts_and_rollbacks(make_fleet: MakeFleet, releases: Releases) -> None:
    fleet = make_fleet(1)
    fleet.deploy(releases.good(1).id)
    rollouts, rollbacks = [], []
    began = time.monotonic()
    with Load(fleet.addresses, recordings=2, streams=2, pages=1) as load:
        for number in range(ROLLOUTS):
            rollouts.append(fleet.deploy(releases.good(2 + number).id).seconds)
        for _ in range(ROLLBACKS):
            rollbacks.append(fleet.rollback().seconds)
    report: dict[str, Any] = {
        "rollouts": len(rollouts),
        "rollout_median_s": round(statistics.median(rollouts), 1),
        "rollbacks": len(rollbacks),
        "rollback_median_s": round(statistics.median(rollbacks), 1) if rollbacks else None,
        "minutes": round((time.monotonic() - began) / 60, 1),
        **load.report(),
    }
    print(json.dumps(report, indent=1))
    if target := os.environ.get("SPARK_SPEECH_DEPLOY_REPORT"):
        Path(target).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    assert load.failures == []
    for kind in ("recordings", "streams", "http"):
        assert report[kind]["done"] > ROLLOUTS + ROLLBACKS


def test_the_phases_of_rollbacks(make_fleet: MakeFleet, releases: Releases) -> None:
    """When each phase was reached, in seconds from the command on: with ``-s``, and without other work."""
    fleet = make_fleet(1)
    host, ids = fleet.hosts[0], [releases.good(1).id, releases.good(2).id]
    for release in ids:
        fleet.deploy(release)
    for number in range(ROLLBACKS):
        before = fleet.state(host)["transaction"]["run"]
        reached: dict[str, float] = {}
        began = time.monotonic()
        process = fleet.spawn("rollback", "--json")
        while process.poll() is None:
            transaction = fleet.state(host).get("transaction") or {}
            if transaction.get("run") != before:
                reached.setdefault(transaction["phase"], round(time.monotonic() - began, 1))
            time.sleep(0.03)
        assert fleet.finish(process).data["outcome"] == "done"
        reached["end"] = round(time.monotonic() - began, 1)
        print(json.dumps(reached))
        assert [*reached][-3:] == ["switched", "committed", "end"]
        fleet.assert_serves(ids[number % 2])


def test_a_host_that_dies_loses_no_words(make_fleet: MakeFleet, releases: Releases) -> None:
    fleet = make_fleet(2)
    fleet.deploy(releases.good(1).id)
    with Load(fleet.addresses, recordings=2, streams=4, pages=0) as load:
        time.sleep(10)
        fleet.hosts[0].kill()
        before = load.recordings.done, load.streams.done
        time.sleep(40)
    assert load.failures == []
    assert load.recordings.done > before[0]
    assert load.streams.done > before[1]
    assert load.streams.resumed > 0, "else no stream was on the host that died"
