"""The verbs for hosts, with a fleet and an Ansible that are made up."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.app import main
from orchestrator.deploy import connection, inventory, rollout
from orchestrator.deploy.connection import Answer
from orchestrator.deploy.inventory import Host, Inventory
from orchestrator.deploy.runner import Event, Outcome, Play
from orchestrator.errors import HostUnreachableError
from orchestrator.repository.release import ReleaseStore

RELEASES = ["a" * 64, "b" * 64]


@pytest.fixture(autouse=True)
def _own_process_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setenv("SPARK_SPEECH__PATHS__HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SPARK_SPEECH__DEPLOY__INVENTORY", str(tmp_path / "hosts.yml"))
    logger = logging.getLogger("orchestrator")
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path, *, limit: str | None = None, vault_password_file: Path | None = None) -> Inventory:
        names = ["spark1", "spark2"] if limit is None else limit.split(",")
        return Inventory(path, tuple(Host(name) for name in names))

    monkeypatch.setattr(inventory, "read", read)


class Ansible:
    """Answers plays with events; keeps what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plays: list[Play] = []
        self.outcomes: list[Outcome] = []
        self.events: list[Event] = []
        monkeypatch.setattr(rollout.runner, "run", self.run)
        monkeypatch.setattr(rollout, "with_logs", lambda failures, *rest: tuple(failures))

    def run(self, play: Play, on_event: Any, should_stop: Any) -> Outcome:
        self.plays.append(play)
        for event in self.events:
            on_event(event)
        return self.outcomes.pop(0) if self.outcomes else Outcome(0)

    def task(self, kind: str, host: str, **result: object) -> None:
        for event in ("runner_on_start", kind):
            data = {"host": host, "task": "do it", "task_action": "command", "res": result}
            self.events.append({"event": event, "event_data": data})


@pytest.fixture
def ansible(monkeypatch: pytest.MonkeyPatch) -> Ansible:
    return Ansible(monkeypatch)


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    class Found:
        id = "c" * 64
        folder = tmp_path / "home" / "releases" / ("c" * 64)

    monkeypatch.setattr(ReleaseStore, "find", lambda self, prefix: Found())
    return Found.id


def answering(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    facts = {
        "active": "blue",
        "slots": {"blue": {"release": RELEASES[1], "environment": "e", "models": []}},
        "healthy": True,
        "drift": [],
        "history": [{"release": release, "outcome": "committed"} for release in RELEASES],
        "releases": RELEASES,
        **changes,
    }

    async def ask(host: Host, command: list[str], *, timeout_s: float, connect_timeout_s: int) -> Answer:
        if host.name == "gone":
            raise HostUnreachableError("no answer", host="gone")
        return Answer(0, json.dumps(facts), "")

    monkeypatch.setattr(connection, "ask", ask)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--json"])
    assert isinstance(caught.value.code, int)
    return caught.value.code, json.loads(capsys.readouterr().out)


def test_deploy_without_change(capsys: pytest.CaptureFixture[str], ansible: Ansible, release: str) -> None:
    code, data = run(capsys, "deploy")
    assert (code, data["outcome"], data["release"]) == (0, "unchanged", release)
    (play,) = ansible.plays
    assert play.playbook.name == "site.yml"
    assert play.variables["spark_speech_release"] == release
    assert play.variables["spark_speech_canary"] == "spark1"
    assert play.variables["spark_speech_run"] == data["run"]
    assert not play.check


def test_deploy_that_fails_takes_the_hosts_back(
    capsys: pytest.CaptureFixture[str], ansible: Ansible, release: str
) -> None:
    ansible.task("runner_on_failed", "spark1", msg="no. Fix: do.")
    ansible.outcomes = [Outcome(2), Outcome(0)]
    code, data = run(capsys, "deploy", "--canary", "spark2")
    assert (code, data["outcome"]) == (1, "failed")
    assert [play.playbook.name for play in ansible.plays] == ["site.yml", "revert.yml"]
    assert ansible.plays[0].variables["spark_speech_canary"] == "spark2"
    assert (data["failures"][0]["reason"], data["failures"][0]["fix"]) == ("no.", "do.")
    assert data["fates"]["spark2"] == "untouched"


def test_deploy_that_is_stopped(capsys: pytest.CaptureFixture[str], ansible: Ansible, release: str) -> None:
    ansible.task("runner_on_ok", "spark1", changed=True)
    ansible.outcomes = [Outcome(254, stopped=True), Outcome(0)]
    code, data = run(capsys, "deploy")
    assert (code, data["outcome"]) == (130, "stopped")


@pytest.mark.parametrize(("changed", "expected"), [(False, 0), (True, 2)])
def test_a_plan_exits_with_whether_there_are_changes(
    capsys: pytest.CaptureFixture[str], ansible: Ansible, release: str, changed: bool, expected: int
) -> None:
    ansible.task("runner_on_ok", "spark1", changed=changed, dest="/etc/x")
    code, data = run(capsys, "deploy", "--plan", "--limit", "spark1")
    assert code == expected
    assert data["hosts"]["spark1"]["changed"] is changed
    (play,) = ansible.plays
    assert play.check
    assert play.limit == "spark1"


def test_a_plan_that_cannot_be_done(
    capsys: pytest.CaptureFixture[str], ansible: Ansible, release: str
) -> None:
    ansible.task("runner_on_failed", "spark2", msg="the disk is full")
    ansible.outcomes = [Outcome(2)]
    code, data = run(capsys, "deploy", "--plan")
    assert code == 1
    assert data["failures"][0]["host"] == "spark2"


def test_a_killed_run_is_named_to_the_next_one(
    capsys: pytest.CaptureFixture[str], ansible: Ansible, release: str, tmp_path: Path
) -> None:
    folder = tmp_path / "home" / "deploy" / "runs"
    folder.mkdir(parents=True)
    (folder / "dead.run").touch()
    run(capsys, "deploy")
    assert ansible.plays[0].variables["spark_speech_take_over"] == ["dead"]
    assert list(folder.iterdir()) == []


def test_rollback_goes_to_the_release_before(
    capsys: pytest.CaptureFixture[str], ansible: Ansible, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch)
    code, data = run(capsys, "rollback")
    assert (code, data["release"]) == (0, RELEASES[0])
    assert ansible.plays[0].playbook.name == "rollback.yml"
    assert ansible.plays[0].variables["spark_speech_release"] == RELEASES[0]


def test_rollback_with_a_silent_host_changes_nothing(
    capsys: pytest.CaptureFixture[str], ansible: Ansible, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch)
    code, data = run(capsys, "rollback", "--limit", "spark1,gone")
    assert (code, data["error"], data["host"]) == (1, "HostUnreachableError", "gone")
    assert ansible.plays == []


@pytest.mark.parametrize(
    ("limit", "changes", "code", "verdict"),
    [
        ("spark1", {}, 0, "healthy"),
        ("spark1,gone", {}, 2, "unknown"),
        ("spark1,gone", {"drift": ["the front does not answer"]}, 1, "degraded"),
    ],
)
def test_status_of_a_fleet(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    changes: dict[str, object],
    code: int,
    verdict: str,
) -> None:
    answering(monkeypatch, **changes)
    found, data = run(capsys, "status", "--limit", limit)
    assert (found, data["verdict"]) == (code, verdict)
    assert list(data["hosts"]) == limit.split(",")


def test_status_without_an_inventory_is_of_this_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPARK_SPEECH__DEPLOY__INVENTORY")
    code, data = run(capsys, "status")
    assert code == 2
    assert "no server was started" in data["reason"]


def test_verbs_for_hosts_need_an_inventory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    monkeypatch.delenv("SPARK_SPEECH__DEPLOY__INVENTORY")
    for verb in ("deploy", "rollback", "logs", "undeploy"):
        code, data = run(capsys, verb)
        assert (code, data["error"]) == (2, "InventoryError"), verb


def test_undeploy_asks_first(capsys: pytest.CaptureFixture[str], ansible: Ansible) -> None:
    code, data = run(capsys, "undeploy")
    assert (code, data["error"]) == (2, "ConfigurationError")
    assert ansible.plays == []
    code, data = run(capsys, "undeploy", "--yes", "--keep-releases")
    assert (code, data["ok"]) == (0, True)
    assert ansible.plays[0].variables["spark_speech_undeploy_keep_releases"] is True


def test_undeploy_that_fails(capsys: pytest.CaptureFixture[str], ansible: Ansible) -> None:
    ansible.task("runner_on_failed", "spark1", msg="busy")
    ansible.outcomes = [Outcome(2)]
    code, data = run(capsys, "undeploy", "--yes")
    assert (code, data["failures"][0]["reason"]) == (1, "busy")
