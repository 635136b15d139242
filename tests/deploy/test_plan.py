from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.deploy import plan
from orchestrator.deploy.changes import Change
from orchestrator.deploy.events import Call, HostResult
from orchestrator.deploy.plan import Difference, host_plan, in_order, rollout
from orchestrator.errors import InventoryError
from orchestrator.settings import DeploySettings

HOSTS = ("a", "b", "c")
OLD = {"release": "r1", "environment": "e1", "config": "c1"}


def begin(changed: bool, previous: dict[str, str | None], **options: str) -> Call:
    arguments = ["begin", *(part for name, value in options.items() for part in (f"--{name}", value))]
    reply = {
        "changed": changed,
        "slot": "green",
        "mode": "blue_green",
        "previous": {"slot": "blue", **previous},
    }
    return Call(tuple(arguments), reply)


@given(st.lists(st.text(min_size=1), unique=True, min_size=1), st.data())
def test_the_canary_comes_first_and_nobody_is_lost(hosts: list[str], data: st.DataObject) -> None:
    canary = data.draw(st.sampled_from(hosts) | st.none())
    ordered = in_order(hosts, canary)
    assert sorted(ordered) == sorted(hosts)
    assert ordered[0] == (canary or hosts[0])
    assert [host for host in ordered if host != canary] == [host for host in hosts if host != canary]


def test_an_unknown_canary_is_refused() -> None:
    with pytest.raises(InventoryError, match="canary 'd'"):
        in_order(HOSTS, "d")


def of(settings: DeploySettings, **options: object) -> plan.Rollout:
    hosts = options.pop("hosts", HOSTS)
    return rollout(settings, hosts, run="r", owner="o", release="x" * 64, **options)  # type: ignore[arg-type]


def test_what_is_not_set_is_left_to_the_inventory() -> None:
    assert of(DeploySettings()).variables == {
        "spark_speech_run": "r",
        "spark_speech_owner": "o",
        "spark_speech_release": "x" * 64,
        "spark_speech_canary": "a",
    }


def test_what_is_set_is_handed_on() -> None:
    settings = DeploySettings(canary="b", batch=2, confirm_s=60, drain_s=0)
    found = of(settings, extra={"more": 1})
    assert found.hosts == ("b", "a", "c")
    assert found.variables["spark_speech_serial"] == [1, 2]
    assert found.variables["spark_speech_confirm_s"] == 60
    assert found.variables["spark_speech_drain_s"] == 0
    assert found.variables["more"] == 1


def test_the_command_lines_canary_is_stronger() -> None:
    assert of(DeploySettings(canary="b"), canary="c").hosts[0] == "c"


def test_a_limit_may_leave_the_settings_canary_out_but_not_the_command_lines() -> None:
    settings = DeploySettings(canary="b")
    assert of(settings, hosts=("c",), limit="c").hosts == ("c",)
    with pytest.raises(InventoryError):
        of(settings, hosts=("c",))
    with pytest.raises(InventoryError):
        of(settings, hosts=("c",), limit="c", canary="b")


def test_a_run_is_named_by_its_time_and_a_token() -> None:
    assert plan.run_id(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "ab") == "20260102T030405Z-ab"


def test_a_host_plan_says_from_what_to_what() -> None:
    result = HostResult("a", calls=[begin(True, OLD, release="r2", environment="e1", config="c2")])
    found = host_plan(result, "r2")
    assert found.differences == (Difference("release", "r1", "r2"), Difference("config", "c1", "c2"))
    assert (found.slot, found.mode, found.changed) == ("green", "blue_green", True)


def test_nothing_to_do_is_no_change() -> None:
    result = HostResult("a", calls=[begin(False, OLD, release="r1", environment="e1", config="c1")])
    found = host_plan(result, "r1")
    assert not found.changed
    assert plan.exit_code([found]) == 0


def test_a_host_that_was_never_asked_would_get_the_release() -> None:
    found = host_plan(HostResult("a", changed=1, changes=[Change("make the user")]), "r1")
    assert found.differences == (Difference("release", None, "r1"),)
    assert plan.exit_code([host_plan(HostResult("b"), "r1"), found]) == 2


def test_a_host_that_served_nothing_before() -> None:
    result = HostResult("a", calls=[begin(True, {}, release="r1", environment="e", config="c")])
    assert [one.before for one in host_plan(result, "r1").differences] == [None, None, None]


def test_units_are_apart_from_other_files() -> None:
    unit = Change("write", "/etc/systemd/system/spark-speech-front.service", "x", "y")
    other = Change("write", "/etc/haproxy.cfg")
    result = HostResult("a", changed=2, changes=[unit, other], calls=[begin(False, OLD)])
    found = host_plan(result, "r1")
    assert found.differences == (Difference("unit spark-speech-front.service", "x", "y"),)
    assert found.changes == (other,)
