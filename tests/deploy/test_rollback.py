from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.deploy.fleet_status import HostStatus
from orchestrator.deploy.rollback import target
from orchestrator.errors import DeployError, HostUnreachableError, ReleaseNotFoundError
from orchestrator.runtime.status import Verdict


def host(
    name: str, serving: str, history: list[tuple[str, str]], kept: list[str] | None = None
) -> HostStatus:
    return HostStatus(
        name,
        Verdict.HEALTHY,
        facts={
            "active": "blue",
            "slots": {"blue": {"release": serving, "environment": "e"}},
            "history": [{"release": release, "outcome": outcome} for release, outcome in history],
            "releases": kept if kept is not None else sorted({release for release, _ in history}),
        },
    )


def committed(*releases: str) -> list[tuple[str, str]]:
    return [(release, "committed") for release in releases]


def test_the_release_before_the_one_that_serves() -> None:
    assert target([host("a", "r3", committed("r1", "r2", "r3"))]) == "r2"


def test_a_rollback_is_undone_by_another() -> None:
    assert target([host("a", "r1", committed("r1", "r2", "r1"))]) == "r2"


def test_a_release_that_did_not_pass_is_no_way_back() -> None:
    history = [("r1", "committed"), ("r2", "reverted"), ("r3", "committed")]
    assert target([host("a", "r3", history)]) == "r1"


def test_a_release_that_was_pruned_is_no_way_back() -> None:
    assert target([host("a", "r3", committed("r1", "r2", "r3"), kept=["r1", "r3"])]) == "r1"


def test_all_hosts_go_to_the_same_release() -> None:
    hosts = [host("a", "r3", committed("r1", "r2", "r3")), host("b", "r3", committed("r1", "r3"))]
    assert target(hosts) == "r1"
    assert target(list(reversed(hosts))) == "r1"


def test_no_common_release_is_refused() -> None:
    hosts = [host("a", "r2", committed("r1", "r2")), host("b", "r2", committed("r2"))]
    with pytest.raises(ReleaseNotFoundError, match="in common"):
        target(hosts)
    with pytest.raises(ReleaseNotFoundError, match="no earlier release"):
        target(hosts[1:])


def test_a_silent_host_stops_it_before_anything_is_done() -> None:
    silent = HostStatus("b", Verdict.UNKNOWN, ("no answer",), "look")
    with pytest.raises(HostUnreachableError, match="no answer") as caught:
        target([host("a", "r2", committed("r1", "r2")), silent])
    assert caught.value.host == "b"


def test_a_wanted_release_is_found_by_its_beginning() -> None:
    hosts = [host("a", "abc3", committed("abc1", "abd2", "abc3"))]
    assert target(hosts, "abd") == "abd2"
    with pytest.raises(DeployError, match="fits 3 releases"):
        target(hosts, "ab")
    with pytest.raises(ReleaseNotFoundError, match="a has no release 'zz'"):
        target(hosts, "zz")


def test_a_wanted_release_must_be_on_every_host() -> None:
    hosts = [host("a", "r2", committed("r1", "r2")), host("b", "r2", committed("r2"))]
    with pytest.raises(ReleaseNotFoundError, match="b has no release 'r1'"):
        target(hosts, "r1")


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=8))
def test_going_back_twice_is_where_one_was(served: list[str]) -> None:
    history = list(served)
    try:
        first = target([host("h", history[-1], committed(*history))])
    except ReleaseNotFoundError:
        assert len(set(history)) == 1
        return
    assert first != history[-1]
    again = target([host("h", first, committed(*history, first))])
    assert again == history[-1]
