from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.deploy.host import cli
from orchestrator.deploy.host.layout import Layout
from tests.deploy.host.fakes import World, machine

RELEASE = "a" * 64
BEGIN = ["begin", "--run", "r1", "--release", RELEASE, "--environment", "env", "--config", "cfg"]


class Program:
    """The program with a host in memory."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        code = cli.main(["--home", str(self.home), *arguments])
        written = self._capsys.readouterr().out
        assert written.count("\n") == 1
        return code, json.loads(written)


@pytest.fixture
def program(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Program:
    world = World()

    def fake(layout: Layout) -> Any:
        return machine(layout.home, world)

    monkeypatch.setattr(cli, "machine_of", fake)
    folder = tmp_path / "releases" / RELEASE
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return Program(tmp_path, capsys)


def test_a_rollout_by_its_verbs(program: Program) -> None:
    code, begun = program(*BEGIN)
    assert (code, begun["changed"], begun["slot"], begun["mode"]) == (0, True, "blue", "blue_green")
    assert begun["previous"] == {"slot": None}
    for arguments in (
        ["start", "blue"],
        ["gated", "--run", "r1"],
        ["switch", "blue"],
        ["commit", "--run", "r1"],
    ):
        assert program(*arguments)[1]["changed"] is True
    assert program("commit", "--run", "r1")[1]["changed"] is False
    assert program(*BEGIN)[1]["changed"] is False
    status = program("status")[1]
    assert (status["active"], status["healthy"], status["current"]) == ("blue", True, RELEASE)
    assert status["transaction"]["phase"] == "committed"
    assert status["front"]["backends"]["triton"]["blue"] == {"admin": "ready", "up": True}
    assert status["slots"]["blue"]["release"] == RELEASE
    assert status["slots"]["green"]["release"] is None
    # What ran it, a rollback must know: an environment, until there is an image of that digest.
    assert [entry["runtime"] for entry in status["history"]] == ["systemd"]
    digest = status["history"][0]["environment"]
    (program.home / "images" / digest).mkdir(parents=True)
    assert [entry["runtime"] for entry in program("status")[1]["history"]] == ["container"]
    pruned = program("prune")[1]
    assert pruned.pop("changed") is False
    assert set(map(tuple, pruned.values())) == {()}
    assert program("activate", RELEASE)[1] == {"changed": False, "release": RELEASE}
    assert program("down")[1]["changed"] is True


def test_check_says_so_and_writes_nothing(program: Program) -> None:
    code, said = program("--check", *BEGIN)
    assert (code, said["changed"], said["check"]) == (0, True, True)
    for arguments in (
        ["start", "blue"],
        ["gated", "--run", "r1"],
        ["switch", "blue"],
        ["extend", "--run", "r1"],
    ):
        assert program("--check", *arguments)[0] == 0
    assert [path.name for path in program.home.iterdir()] == ["releases"]


def test_a_check_is_not_refused_by_another_deployment(program: Program) -> None:
    program("lock", "acquire", "--run", "r2", "--ttl", "60")
    assert program("--check", *BEGIN)[1]["changed"] is True


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["switch", "blue"], "TransitionError"),
        (["commit", "--run", "r1"], None),
        (["verify", "b" * 64], "ReleaseNotFoundError"),
        (["earlier"], "ReleaseNotFoundError"),
        (["environment", "blue"], "NotRunningError"),
        (["start", "red"], "ConfigurationError"),
        (["begin", "--run", "r1"], "ConfigurationError"),
        (["begin", "--run", "../x", *BEGIN[3:]], "ConfigurationError"),
        (["begin", "--run", "r1", "--release", "a/b", *BEGIN[5:]], "ConfigurationError"),
        ([*BEGIN, "--confirm-s", "0"], "ConfigurationError"),
        ([*BEGIN, "--confirm-s", "soon"], "ConfigurationError"),
        ([], "ConfigurationError"),
        (["lock", "refresh", "--run", "r1"], "HostLockedError"),
    ],
)
def test_failures_are_one_object_and_exit_1(
    program: Program, arguments: list[str], error: str | None
) -> None:
    code, said = program(*arguments)
    assert (code, said.get("error")) == (0 if error is None else 1, error)
    assert said["changed"] is False
    if error is not None:
        assert said["message"]


def test_a_damaged_state_is_told_and_left_as_it_is(program: Program) -> None:
    path = program.home / "deploy" / "state.json"
    path.parent.mkdir()
    for text in ("{", '{"schema": 9}', "[]"):
        path.write_text(text)
        code, said = program(*BEGIN)
        assert (code, said["error"], said["path"]) == (1, "HostStateError", str(path))
        assert path.read_text() == text


def test_the_lock_through_its_verbs(program: Program) -> None:
    taken = program("lock", "acquire", "--run", "r1", "--owner", "ada", "--pid", "5", "--ttl", "60")[1]
    assert taken["changed"] is True
    assert (taken["lock"]["owner"], taken["lock"]["pid"]) == ("ada", 5)
    assert program("lock", "acquire", "--run", "r1", "--owner", "ada", "--ttl", "60")[1]["changed"] is False
    assert program("lock", "acquire", "--run", "r2")[1]["error"] == "HostLockedError"
    assert program("begin", "--run", "r2", *BEGIN[3:])[1]["error"] == "HostLockedError"
    longer = program("lock", "refresh", "--run", "r1", "--ttl", "600")[1]["lock"]
    assert longer["expires"] > taken["lock"]["expires"] + 500
    assert program("lock", "acquire", "--run", "r2", "--force")[1]["changed"] is True
    assert program("lock", "release", "--run", "r1")[1]["changed"] is False
    assert program("lock", "release", "--run", "r2")[1] == {"changed": True, "lock": None}


def test_another_version_refuses_to_answer(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "host.pyz"
    own.write_bytes(b"this version")
    monkeypatch.setattr("sys.argv", [str(own)])
    code, answer = program("--exactly", hashlib.sha256(b"another").hexdigest(), "status")
    assert (code, answer["error"]) == (1, "HostError")
    assert program("--exactly", hashlib.sha256(b"this version").hexdigest(), "status")[0] == 0


def test_whether_there_is_anything_to_do_is_asked_by_the_input(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"release": RELEASE, "environment": "env", "config": "cfg"}
    request = {"run": "r1", "content": content, "force": False, "expected": [], "units": [], "keep": 5}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(request)))
    code, answer = program("settled")
    assert (code, answer["settled"]) == (0, False)
    monkeypatch.setattr("sys.stdin", io.StringIO("no JSON"))
    assert program("settled")[0] == 1
