from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.deploy import connection
from orchestrator.deploy.connection import Answer
from orchestrator.deploy.fleet_status import Fleet, HostStatus, ask_all, status_of
from orchestrator.deploy.inventory import Host
from orchestrator.errors import HostUnreachableError
from orchestrator.runtime.status import Verdict


def facts(**changes: Any) -> dict[str, Any]:
    slot = {"release": "r" * 64, "environment": "e", "config": "c", "ready": True, "memory_bytes": 5}
    return {
        "active": "blue",
        "slots": {"blue": {**slot, "models": [{"name": "m", "ready": True}]}, "green": {}},
        "healthy": True,
        "drift": [],
        "history": [{"run": "1", "release": "r" * 64, "at": "t", "outcome": "committed"}],
        "transaction": {"run": "1", "phase": "committed"},
        "mem_available_bytes": 7,
        "releases": ["r" * 64],
        **changes,
    }


def answer(data: dict[str, Any], rc: int = 0) -> Answer:
    return Answer(rc, json.dumps(data), "")


def test_a_host_that_serves_is_healthy() -> None:
    found = status_of("a", answer(facts()))
    assert (found.verdict, found.reasons, found.under_way) == (Verdict.HEALTHY, (), None)
    assert found.to_dict()["release"] == "r" * 64


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"active": None}, "serves nothing"),
        ({"drift": ["the front does not answer"]}, "the front does not answer"),
        ({"healthy": False}, "not ready"),
    ],
)
def test_what_is_amiss_is_said(changes: dict[str, Any], reason: str) -> None:
    found = status_of("a", answer(facts(**changes)))
    assert found.verdict is Verdict.DEGRADED
    assert reason in found.reasons[0]
    assert found.fix


def test_an_open_rollout_is_shown() -> None:
    found = status_of("a", answer(facts(transaction={"run": "r9", "phase": "gated"})))
    assert found.under_way == "r9 (gated)"
    assert found.verdict is Verdict.HEALTHY


def test_a_host_without_the_host_program_was_never_deployed_to() -> None:
    found = status_of("a", Answer(2, "", "python3: can't open file '/usr/local/lib/x/host.pyz': [Errno 2]"))
    assert (found.verdict, found.reasons) == (Verdict.DEGRADED, ("nothing was deployed to it",))


def test_a_failing_host_program_cannot_tell() -> None:
    said = status_of("a", Answer(1, '{"message": "the state is of schema 9", "fix": "newer"}', ""))
    assert (said.verdict, said.reasons, said.fix) == (Verdict.UNKNOWN, ("the state is of schema 9",), "newer")
    crashed = status_of("a", Answer(1, "", "Traceback\nMemoryError"))
    assert crashed.verdict is Verdict.UNKNOWN
    assert "MemoryError" in crashed.reasons[0]


@given(st.lists(st.sampled_from([Verdict.HEALTHY, Verdict.DEGRADED, Verdict.UNKNOWN]), max_size=5))
def test_the_fleet_is_as_bad_as_what_is_known(verdicts: list[Verdict]) -> None:
    fleet = Fleet(tuple(HostStatus(str(index), verdict) for index, verdict in enumerate(verdicts)))
    if Verdict.DEGRADED in verdicts:
        assert fleet.verdict.exit_code == 1
    elif Verdict.UNKNOWN in verdicts or not verdicts:
        assert fleet.verdict.exit_code == 2
    else:
        assert fleet.verdict.exit_code == 0


def test_hosts_with_different_content_are_a_mixed_fleet() -> None:
    other = facts()
    other["slots"]["blue"] = {**other["slots"]["blue"], "environment": "f"}
    fleet = Fleet((status_of("a", answer(facts())), status_of("b", answer(other))))
    assert fleet.mixed
    assert fleet.verdict is Verdict.DEGRADED


def test_a_run_that_not_all_hosts_committed_is_named() -> None:
    other = facts(history=[{"run": "r2", "outcome": "committed"}])
    other["slots"]["blue"] = {**other["slots"]["blue"], "release": "f" * 64}
    back = status_of("a", answer(facts(history=[{"run": "r2", "outcome": "reverted"}])))
    cut = status_of("b", answer(other))
    assert Fleet((back, cut)).split == "r2"
    assert Fleet((back, cut)).to_dict()["split"] == "r2"
    assert Fleet((cut, cut)).split is None
    assert Fleet((back, back)).split is None


def test_all_are_asked_at_once_and_a_silent_one_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def ask(host: Host, command: list[str], *, timeout_s: float, connect_timeout_s: int) -> Answer:
        asked.append(host.name)
        while len(asked) < len(hosts):  # for ever, if each waited for the one before
            await asyncio.sleep(0.01)
        if host.name == "gone":
            raise HostUnreachableError("no answer", host=host.name, fix="look")
        return answer(facts())

    monkeypatch.setattr(connection, "ask", ask)
    hosts = [Host(name) for name in ("a", "gone", *"bcdefghijklmn")]
    fleet = asyncio.run(asyncio.wait_for(ask_all(hosts, timeout_s=5, connect_timeout_s=1), 60))
    assert [host.host for host in fleet.hosts] == [host.name for host in hosts]
    assert (fleet.hosts[1].verdict, fleet.hosts[1].reasons, fleet.hosts[1].fix) == (
        Verdict.UNKNOWN,
        ("no answer",),
        "look",
    )
    assert fleet.verdict.exit_code == 2
