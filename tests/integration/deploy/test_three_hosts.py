"""`spark-speech deploy` on three hosts: one release everywhere, or what was there before, never a mixture."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.deploy.conftest import MakeBed, slow
from tests.integration.deploy.fleet import Fleet
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
