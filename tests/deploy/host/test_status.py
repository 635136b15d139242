from __future__ import annotations

import copy
from typing import Any

import pytest

from orchestrator.deploy.host.state import Content, HostState
from orchestrator.deploy.host.status import drift

GOOD = Content("a" * 64, "env", "cfg")
STATE = HostState("blue", {"blue": GOOD, "green": None}, GOOD)


def unit(runs: bool) -> dict[str, Any]:
    return {"active": "active" if runs else "inactive", "enabled": runs}


FOUND: dict[str, Any] = {
    "slots": {
        "blue": {"units": {"triton": unit(True), "gateway": unit(True)}, "ready": True, "violations": []},
        "green": {"units": {"triton": unit(False), "gateway": unit(False)}, "ready": False, "violations": []},
    },
    "front": {
        "running": True,
        "backends": {"triton": {"blue": {"admin": "ready"}, "green": {"admin": "maint"}}},
    },
    "current": GOOD.release,
}


def test_a_host_that_is_as_it_should_be_has_no_drift() -> None:
    assert drift(STATE, FOUND["slots"], FOUND["front"], FOUND["current"]) == []


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (
            ("slots", "blue", "units", "triton", "active"),
            "failed",
            "triton of the active slot blue is failed",
        ),
        (
            ("slots", "blue", "units", "gateway", "enabled"),
            False,
            "gateway of slot blue does not start at boot",
        ),
        (("slots", "blue", "ready"), False, "the active slot blue is not ready"),
        (("slots", "blue", "violations"), ["JIT is on"], "slot blue: JIT is on"),
        (("slots", "green", "units", "triton", "active"), "active", "triton of slot green runs"),
        (("slots", "green", "units", "triton", "enabled"), True, "triton of slot green starts at boot"),
        (("front", "running"), False, "the front does not answer"),
        (("front", "backends", "triton", "blue", "admin"), "drain", "has slot blue as drain in triton"),
        (("front", "backends", "triton", "green", "admin"), "ready", "has slot green as ready in triton"),
        (("current",), "b" * 64, "`current` points at another release"),
    ],
)
def test_each_contradiction_is_one_sentence(where: tuple[str, ...], value: object, said: str) -> None:
    found = copy.deepcopy(FOUND)
    inner = found
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    sentences = drift(STATE, found["slots"], found["front"], found["current"])
    assert len(sentences) == 1
    assert said in sentences[0]
