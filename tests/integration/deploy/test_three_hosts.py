"""`spark-speech deploy` on three hosts: one release everywhere, or what was there before, never a mixture."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.deploy.conftest import MakeBed, slow
from tests.integration.deploy.fleet import Fleet, rows
from tests.integration.deploy.load import Load
from tests.integration.deploy.releases import Releases

pytestmark = [pytest.mark.integration, slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def fleet(
    make_shared_bed: MakeBed,
    fleet_of: Callable[..., Fleet],
    tmp_path_factory: pytest.TempPathFactory,
    releases: Releases,
) -> Fleet:
    """Three hosts that serve the first release."""
    fleet = fleet_of(make_shared_bed(3), tmp_path_factory.mktemp("three"))
    assert fleet.deploy(releases.good(1).id).data["outcome"] == "done"
    return fleet


def test_all_hosts_serve_the_same(fleet: Fleet, releases: Releases) -> None:
    fleet.assert_serves(releases.good(1).id)
    status = fleet.run("status").data
    assert status["verdict"] == "healthy"
    assert status["mixed"] is False
    assert {host["release"] for host in status["hosts"].values()} == {releases.good(1).id}


def test_a_second_deploy_changes_and_restarts_nothing_anywhere(fleet: Fleet, releases: Releases) -> None:
    before = [(fleet.state(host), fleet.pids(host)) for host in fleet.hosts]
    again = fleet.deploy(releases.good(1).id)
    assert again.data["outcome"] == "unchanged"
    assert {row["changed"] for row in rows(again).values()} == {0}
    assert [(fleet.state(host), fleet.pids(host)) for host in fleet.hosts] == before


def test_the_one_host_that_differs_is_brought_back_alone(fleet: Fleet, releases: Releases) -> None:
    first, second, third = fleet.hosts
    kept = [fleet.pids(host) for host in (first, third)]
    unit = second.path("/etc/systemd/system/spark-speech-gateway@.service")
    whole = unit.read_text(encoding="utf-8")
    unit.write_text(whole + "# changed by hand\n", encoding="utf-8")
    again = fleet.deploy(releases.good(1).id)
    assert again.data["outcome"] == "done"
    changed = {name: row["changed"] for name, row in rows(again).items()}
    assert changed[second.name] > 0
    assert (changed[first.name], changed[third.name]) == (0, 0)
    assert unit.read_text(encoding="utf-8") == whole
    assert [fleet.pids(host) for host in (first, third)] == kept
    fleet.assert_serves(releases.good(1).id)


def test_broken_on_the_second_host_all_go_back(fleet: Fleet, releases: Releases) -> None:
    old, new = releases.good(1).id, releases.good(2).id
    canary, second, third = fleet.hosts
    with fleet.deafened(second), Load(fleet.addresses, pages=0) as load:
        answer = fleet.deploy(new, rc=1)
    assert load.failures == []
    assert answer.data["outcome"] == "failed"
    assert [failure["host"] for failure in answer.data["failures"]] == [second.name]
    assert "words are wrong" in answer.data["failures"][0]["reason"]
    fates = answer.data["fates"]
    assert fates[canary.name] == fates[second.name] == "reverted"
    assert fates[third.name] in {"untouched", "as before"}
    fleet.assert_serves(old)
    assert fleet.run("status").data["mixed"] is False
