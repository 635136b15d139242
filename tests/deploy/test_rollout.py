from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.deploy import rollout as rollouts
from orchestrator.deploy.events import Call, Failure, HostResult, Journal, Step
from orchestrator.deploy.inventory import Host, Inventory
from orchestrator.deploy.plan import Rollout
from orchestrator.deploy.rollout import Fate, Outcome, Watchers, carry_out, failures_of, fates_of
from orchestrator.deploy.runner import Event, Play
from orchestrator.deploy.runner import Outcome as Ended
from orchestrator.errors import DeployError
from orchestrator.settings import DeploySettings

RECORDED = Path(__file__).parent / "recorded"
HOSTS = ("a", "b", "gone")
INVENTORY = Inventory(Path("/inventory"), tuple(Host(name) for name in HOSTS))
ROLLOUT = Rollout("r1", "me", HOSTS, {"spark_speech_release": "x" * 64}, None)


def events_of(name: str) -> list[Event]:
    lines = (RECORDED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


class Ansible:
    """Plays recorded events instead of running playbooks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **ends: tuple[str, Ended]) -> None:
        self.plays: list[Play] = []
        self._ends = ends
        monkeypatch.setattr(rollouts.runner, "run", self.run)
        monkeypatch.setattr(rollouts, "with_logs", self._with_logs)

    def run(self, play: Play, on_event, should_stop) -> Ended:  # type: ignore[no-untyped-def]
        self.plays.append(play)
        name, outcome = self._ends[play.playbook.stem]
        for event in events_of(name):
            on_event(event)
        return outcome

    def _with_logs(self, failures, inventory, settings):  # type: ignore[no-untyped-def]
        assert [play.playbook.stem for play in self.plays] == ["site"]  # before the way back
        return tuple(failures)


def carried(ansible: Ansible, watchers: Watchers | None = None) -> rollouts.Report:
    return carry_out(ROLLOUT, "site.yml", INVENTORY, DeploySettings(), watchers or Watchers())


def test_a_success_goes_no_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    ansible = Ansible(monkeypatch, site=("revert", Ended(0)))
    report = carried(ansible)
    assert report.outcome is Outcome.UNCHANGED
    assert report.ok
    assert len(ansible.plays) == 1


def test_a_failure_brings_every_host_back(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    ansible = Ansible(monkeypatch, site=("results", Ended(2)), revert=("revert", Ended(0)))
    watchers = Watchers(on_revert=lambda: told.append("revert"))
    report = carried(ansible, watchers)
    assert [play.playbook.name for play in ansible.plays] == ["site.yml", "revert.yml"]
    assert ansible.plays[1].variables == ansible.plays[0].variables
    assert ansible.plays[1].limit is None
    assert told == ["revert"]
    assert report.outcome is Outcome.FAILED
    assert report.fates == {"a": Fate.REVERTED, "b": Fate.AS_BEFORE, "gone": Fate.LEFT}
    assert report.left == ("gone",)
    assert [failure.host for failure in report.revert_failures] == ["gone"]
    assert {failure.host for failure in report.failures} == set(HOSTS)
    json.dumps(report.to_dict())


def test_a_run_that_was_stopped_goes_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ansible = Ansible(monkeypatch, site=("results", Ended(0, stopped=True)), revert=("revert", Ended(0)))
    report = carried(ansible)
    assert report.outcome is Outcome.STOPPED
    assert not report.ok
    assert len(ansible.plays) == 2


def test_a_run_that_only_looked_needs_no_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    ansible = Ansible(monkeypatch, site=("preflight", Ended(2)))
    report = carried(ansible)
    assert len(ansible.plays) == 1
    assert set(report.fates.values()) == {Fate.UNTOUCHED}


def test_the_way_back_is_not_stopped_by_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def run(play: Play, on_event, should_stop) -> Ended:  # type: ignore[no-untyped-def]
        asked.append(should_stop())
        for event in events_of("results"):
            on_event(event)
        return Ended(1, stopped=should_stop())

    monkeypatch.setattr(rollouts.runner, "run", run)
    monkeypatch.setattr(rollouts, "with_logs", lambda failures, *rest: tuple(failures))
    carry_out(ROLLOUT, "site.yml", INVENTORY, DeploySettings(), Watchers(should_stop=lambda: True))
    assert asked == [True, False]


def test_a_way_back_that_fails_as_a_whole_leaves_what_was_touched() -> None:
    back = Journal()
    failures = (Failure("-", "start", "broken"),)
    assert fates_of(HOSTS, ("a",), back, failures) == {
        "a": Fate.LEFT,
        "b": Fate.UNTOUCHED,
        "gone": Fate.UNTOUCHED,
    }


def test_a_host_that_failed_to_come_back_is_left() -> None:
    back = Journal()
    back.hosts["a"] = HostResult("a", calls=[Call(("revert",), {"changed": True})])
    back.hosts["b"] = HostResult("b")
    fates = fates_of(("a", "b"), ("a", "b"), back, (Failure("a", "t", "r"),))
    assert fates == {"a": Fate.LEFT, "b": Fate.AS_BEFORE}


def test_where_ansible_cannot_start_its_own_words_are_the_reason() -> None:
    journal = Journal()
    for event in events_of("broken"):
        journal.apply(event)
    (failure,) = failures_of(journal, Ended(4))
    assert failure.host == "-"
    assert "couldn't resolve module/action" in failure.reason


def test_steps_of_both_runs_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Step] = []
    ansible = Ansible(monkeypatch, site=("results", Ended(2)), revert=("revert", Ended(0)))
    carried(ansible, Watchers(on_step=steps.append))
    assert [step.task for step in steps if step.kind == "play"] == ["Every result", "Refusal", "Revert"]


@pytest.mark.parametrize("touched", [True, False])
def test_an_ansible_that_breaks_off_brings_back_what_was_touched(
    monkeypatch: pytest.MonkeyPatch, touched: bool
) -> None:
    plays: list[str] = []

    def run(play: Play, on_event, should_stop) -> Ended:  # type: ignore[no-untyped-def]
        plays.append(play.playbook.stem)
        for event in events_of("revert" if touched else "preflight"):
            on_event(event)
        if play.playbook.stem == "site":
            raise DeployError("no space left", fix="free some")
        return Ended(0)

    monkeypatch.setattr(rollouts.runner, "run", run)
    monkeypatch.setattr(rollouts, "with_logs", lambda failures, *rest: tuple(failures))
    if not touched:
        with pytest.raises(DeployError):
            carry_out(ROLLOUT, "site.yml", INVENTORY, DeploySettings(), Watchers())
        return
    report = carry_out(ROLLOUT, "site.yml", INVENTORY, DeploySettings(), Watchers())
    assert plays == ["site", "revert"]
    assert [failure.reason for failure in report.failures] == ["no space left"]
    assert report.fates["a"] is Fate.REVERTED


def committed(host: str) -> list[Event]:
    result = {"cmd": ["python3", "host.pyz", "commit", "--run", "r1"], "stdout": '{"changed": true}'}
    data = {"host": host, "task": "Commit", "task_action": "command"}
    return [
        {"event": "runner_on_start", "event_data": data},
        {"event": "runner_on_ok", "event_data": {**data, "res": result}},
    ]


@pytest.mark.parametrize("everywhere", [True, False])
def test_there_is_no_way_back_once_every_host_has_committed(
    monkeypatch: pytest.MonkeyPatch, everywhere: bool
) -> None:
    plays: list[Play] = []
    unlocked: list[tuple[str, tuple[str, ...]]] = []

    async def unlock(run: str, hosts: Sequence[Host], settings: DeploySettings) -> None:
        unlocked.append((run, tuple(host.name for host in hosts)))

    monkeypatch.setattr(rollouts, "unlock", unlock)
    cut = {
        "host": "gone",
        "task": "Unlock the host",
        "res": {"msg": "Connection timed out", "unreachable": True},
    }

    def run(play: Play, on_event, should_stop) -> Ended:  # type: ignore[no-untyped-def]
        plays.append(play)
        if play.playbook.stem != "site":
            return Ended(0)
        for host in HOSTS if everywhere else ("a", "gone"):
            for event in committed(host):
                on_event(event)
        on_event({"event": "runner_on_unreachable", "event_data": cut})
        return Ended(4)

    monkeypatch.setattr(rollouts.runner, "run", run)
    monkeypatch.setattr(rollouts, "with_logs", lambda failures, *rest: tuple(failures))
    report = carry_out(ROLLOUT, "site.yml", INVENTORY, DeploySettings(), Watchers())
    assert report.outcome is Outcome.FAILED
    assert not report.clean  # the host out of reach is still locked
    if everywhere:
        assert [play.playbook.stem for play in plays] == ["site"]
        assert unlocked == [("r1", HOSTS)]
        assert set(report.fates.values()) == {Fate.COMMITTED}
    else:
        assert [play.playbook.stem for play in plays] == ["site", "revert"]


@pytest.mark.parametrize(("served", "expected"), [(True, True), (False, False)])
def test_a_host_that_served_it_before_has_nothing_to_commit(served: bool, expected: bool) -> None:
    journal = Journal()
    for event in committed("a"):
        journal.apply(event)
    journal.hosts["b"] = HostResult("b", calls=[Call(("begin",), {"changed": not served})])
    assert rollouts.committed_everywhere(("a", "b"), journal) is expected
    assert not rollouts.committed_everywhere(("b",), journal)
    assert not rollouts.committed_everywhere(("a", "gone"), journal)
