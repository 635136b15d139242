"""Whether a host needs nothing: every way in which it may need something."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.deploy.host.lock import Lock, LockFile
from orchestrator.deploy.host.rollout import Rollout, Wish
from orchestrator.deploy.host.settled import settled
from orchestrator.deploy.host.state import Content
from orchestrator.errors import ConfigurationError
from orchestrator.repository.integrity import content_digest
from tests.deploy.host.fakes import FakeMachine, World, machine

UNIT = "spark-speech-front.service"


class Served:
    """A host that serves a release, and what a deployment would ask it."""

    def __init__(self, home: Path) -> None:
        self.world = World()
        self.machine: FakeMachine = machine(home, self.world)
        self.file = home / "some.unit"
        self.file.write_text("right")
        self.release = self._release(home, "first")
        self.roll_out("r1", self.release)
        self.request: dict[str, Any] = {
            "run": "r2",
            "content": {"release": self.release, "environment": "env", "config": "cfg"},
            "force": False,
            "expected": [{"path": str(self.file), "state": "file"}],
            "units": [UNIT],
            "keep": 5,
        }

    def roll_out(self, run: str, release: str) -> None:
        rollout = Rollout(self.machine)
        slot = rollout.begin(Wish(run, Content(release, "env", "cfg")))["slot"]
        rollout.start(slot)
        rollout.gated(run)
        rollout.switch(slot)
        rollout.commit(run)

    def ask(self, **changed: Any) -> dict[str, Any]:
        return settled(self.machine, {**self.request, **changed})

    def lock(self, run: str) -> None:
        now = self.machine.now()
        LockFile(self.machine.layout).write(Lock("somebody", run, 1, now, now + 100))

    def path(self, name: str) -> Path:
        return self.machine.layout.releases / self.release / name

    @staticmethod
    def _release(home: Path, name: str) -> str:
        content: dict[str, Any] = {"name": name, "files": []}
        release = content_digest(content)
        folder = home / "releases" / release
        (folder / "model_repository").mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({**content, "id": release}))
        return release


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


def test_a_host_that_serves_this_needs_nothing(served: Served) -> None:
    state, effects = served.machine.store.read(), list(served.world.effects)
    assert served.ask() == {"changed": False, "settled": True, "reason": None}
    served.lock("r2")  # its own
    assert served.ask()["settled"] is True
    assert (served.machine.store.read(), served.world.effects) == (state, effects), "it only looks"


def other(served: Served, what: str) -> dict[str, Any]:
    return {"content": {**served.request["content"], what: "b" * 64}}


def begin_other(served: Served) -> None:
    Rollout(served.machine).begin(Wish("r9", Content("b" * 64, "env", "cfg")))


DRIFTS: dict[str, tuple[Callable[[Served], object], str]] = {
    "an edited file": (lambda served: served.file.unlink(), "some.unit is not as it should be"),
    "a stopped unit": (lambda served: served.world.stopped.add(UNIT), f"{UNIT} is inactive"),
    "a stopped server": (lambda served: served.world.running.update(blue=False), ""),
    "a server that is not ready": (lambda served: served.world.broken.add("blue"), ""),
    "a server that a start of the machine forgets": (
        lambda served: served.world.enabled.update(blue=False),
        "does not start at boot",
    ),
    "a front that is gone": (
        lambda served: setattr(served.world, "front_runs", False),
        "does not answer",
    ),
    "a front that sends nothing": (lambda served: served.world.admin.update(blue="maint"), "blue as maint"),
    "another deployment": (lambda served: served.lock("r9"), "deploys to this host"),
    "a rollout that was cut off": (begin_other, "a rollout is under way"),
    "an altered release": (lambda served: served.path("manifest.json").write_text("{}"), "cannot be read"),
    "a lost release": (lambda served: served.path("manifest.json").unlink(), "not on this host"),
    "a file too many": (lambda served: served.path("model_repository/new").touch(), "does not match"),
    "something to prune": (
        lambda served: (served.machine.layout.environments / "unused").mkdir(parents=True),
        "to remove",
    ),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_whatever_is_not_so_is_noticed(served: Served, name: str) -> None:
    happen, said = DRIFTS[name]
    happen(served)
    answer = served.ask()
    assert answer["settled"] is False
    assert said in answer["reason"]


@pytest.mark.parametrize("what", ["release", "environment", "config"])
def test_any_other_content_is_something_to_do(served: Served, what: str) -> None:
    assert served.ask(**other(served, what))["settled"] is False


def test_a_new_stack_may_be_wanted_all_the_same(served: Served) -> None:
    assert served.ask(force=True)["settled"] is False


def test_a_request_that_cannot_be_understood(served: Served) -> None:
    for changed in ({"content": {"release": "only"}}, {"expected": [{"no": "path"}]}):
        with pytest.raises(ConfigurationError):
            served.ask(**changed)
    del served.request["keep"]
    with pytest.raises(ConfigurationError, match="keep"):
        served.ask()
