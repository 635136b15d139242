"""`spark-speech deploy` and `rollback` on one host with real models: what has to work every day.

The tests use one host one after the other; each leaves it as it found it: serving the first release.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.integration.deploy.conftest import MakeBed, slow
from tests.integration.deploy.fleet import Fleet, rows
from tests.integration.deploy.load import HeldStream, Load
from tests.integration.deploy.releases import Releases

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def fleet(
    make_shared_bed: MakeBed,
    fleet_of: Callable[..., Fleet],
    tmp_path_factory: pytest.TempPathFactory,
    releases: Releases,
) -> Fleet:
    """One host that serves the first release."""
    # No host goes back because the machine is busy, and a run can be stopped while a stream holds it.
    fleet = fleet_of(
        make_shared_bed(1),
        tmp_path_factory.mktemp("one"),
        spark_speech_confirm_s=1200,
        spark_speech_gate_max_latency_s=300,
        spark_speech_drain_s=60,
    )
    first = fleet.deploy(releases.good(1).id)
    assert first.data["outcome"] == "done"
    return fleet


def test_the_first_deploy_makes_an_empty_host_serve(fleet: Fleet, releases: Releases) -> None:
    host = fleet.hosts[0]
    fleet.assert_serves(releases.good(1).id)
    status = fleet.run("status")
    assert status.data["hosts"]["spark1"]["verdict"] == "healthy"
    assert host.run("systemctl", "is-enabled", "spark-speech-front").stdout.strip() == "enabled"


def test_a_second_deploy_changes_and_restarts_nothing(fleet: Fleet, releases: Releases) -> None:
    host = fleet.hosts[0]
    before, running = fleet.state(host), fleet.pids(host)
    again = fleet.deploy(releases.good(1).id)
    assert again.data["outcome"] == "unchanged"
    assert rows(again)["spark1"]["changed"] == 0
    assert fleet.state(host) == before
    assert fleet.pids(host) == running
    assert fleet.run("deploy", releases.good(1).id, "--plan").data["hosts"]["spark1"]["changed"] is False


def test_a_new_release_and_back_and_nobody_notices(fleet: Fleet, releases: Releases) -> None:
    host, old, new = fleet.hosts[0], releases.good(1).id, releases.good(2).id
    plan = fleet.run("deploy", new, "--plan", rc=2)
    assert plan.data["hosts"]["spark1"]["changed"] is True
    assert fleet.serving(host) == old
    with Load(fleet.addresses) as load:
        assert fleet.deploy(new).data["outcome"] == "done"
        fleet.assert_serves(new)
        fleet.rollback()
        fleet.assert_serves(old)
    report = load.report()
    assert load.failures == []
    assert report["recordings"]["done"] > 5
    assert report["streams"]["done"] > 3
    assert report["http"]["done"] > 5


def test_a_host_that_was_switched_goes_back(fleet: Fleet, releases: Releases) -> None:
    """A stream on the old stack holds the run between switch and commit, where it is stopped."""
    host, old, new = fleet.hosts[0], releases.good(1).id, releases.good(3).id
    running = fleet.pids(host)
    with HeldStream(host.address) as stream:
        process = fleet.spawn("deploy", new, "--json")
        fleet.until(
            lambda: fleet.phase(host) == "switched" or process.poll() is not None, "the switch", timeout=600
        )
        assert fleet.phase(host) == "switched", fleet.finish(process).text
        assert fleet.serving(host) == new
        process.send_signal(signal.SIGINT)
        answer = fleet.finish(process)
    assert answer.rc == 130, answer.text
    assert answer.data["outcome"] == "stopped"
    assert answer.data["fates"] == {"spark1": "reverted"}
    fleet.assert_serves(old)
    still = fleet.pids(host)
    assert {name: still.get(name) for name in running} == running, "what served was not touched"
    assert (len(stream.text.split()) > 20, stream.resumed) == (True, 0), stream.text


@slow
def test_a_rollback_is_undone_by_a_rollback(fleet: Fleet, releases: Releases) -> None:
    old, new = releases.good(1).id, releases.good(4).id
    fleet.deploy(new)
    fleet.rollback()
    fleet.assert_serves(old)
    fleet.rollback()
    fleet.assert_serves(new)
    fleet.rollback(old[:12])
    fleet.assert_serves(old)


@pytest.mark.parametrize("kind", ["deaf", pytest.param("crashing", marks=slow)])
def test_a_broken_release_never_serves(fleet: Fleet, releases: Releases, kind: str) -> None:
    host, old = fleet.hosts[0], releases.good(1).id
    broken = getattr(releases, kind)().id
    running = fleet.pids(host)
    with Load(fleet.addresses, streams=0, pages=0) as load:
        answer = fleet.deploy(broken, rc=1)
    assert load.failures == []
    assert answer.data["outcome"] == "failed"
    assert answer.data["fates"] == {"spark1": "reverted"}
    failure = answer.data["failures"][0]
    assert failure["host"] == "spark1"
    assert failure["fix"]
    if kind == "deaf":
        assert "words are wrong" in failure["reason"]
    else:
        assert any("the weights are of another kind" in line for line in failure["log"]), failure
    fleet.assert_serves(old)
    still = fleet.pids(host)
    assert {name: still.get(name) for name in running} == running, "what served was not touched"


@slow
def test_a_failed_release_can_be_followed_by_a_good_one(fleet: Fleet, releases: Releases) -> None:
    fleet.deploy(releases.deaf().id, rc=1)
    fleet.deploy(releases.good(3).id)
    fleet.assert_serves(releases.good(3).id)
    fleet.rollback()
    fleet.assert_serves(releases.good(1).id)
