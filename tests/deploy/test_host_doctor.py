from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from orchestrator.coldstart.cuda_cache import cuda_environment
from orchestrator.deploy import connection
from orchestrator.deploy.connection import Answer
from orchestrator.deploy.host_doctor import examine, policy_check
from orchestrator.deploy.inventory import Host
from orchestrator.errors import HostUnreachableError
from orchestrator.runtime.doctor import Level

GOOD = {**cuda_environment(Path("/cache")), "TRITON_PTXAS_PATH": None}
STATUS = {"active": "blue", "slots": {"blue": {"release": "f" * 64}}, "healthy": True, "drift": []}


def test_a_server_that_keeps_the_policy() -> None:
    check = policy_check({"environment": GOOD, "pid": 7})
    assert check.level is Level.OK
    assert "/cache/cuda" in check.message


@pytest.mark.parametrize(
    ("name", "value"), [("CUDA_FORCE_PTX_JIT", "1"), ("CUDA_CACHE_PATH", None), ("CUDA_CACHE_MAXSIZE", "5")]
)
def test_a_server_that_does_not(name: str, value: str | None) -> None:
    check = policy_check({"environment": {**GOOD, name: value}, "pid": 7})
    assert check.level is Level.FAIL
    assert name in check.message
    assert check.fix


def test_what_could_not_be_read_is_no_pass() -> None:
    check = policy_check({"message": "slot blue runs no tritonserver", "fix": "start it"})
    assert (check.level, check.message, check.fix) == (
        Level.FAIL,
        "slot blue runs no tritonserver",
        "start it",
    )
    assert policy_check({}).level is Level.FAIL


def test_every_host_is_examined_and_a_silent_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(host: Host, command: list[str], *, timeout_s: float, connect_timeout_s: int) -> Answer:
        if host.name == "gone":
            raise HostUnreachableError("no answer", host="gone")
        verb = command[command.index("--home") + 2 :]
        reply = STATUS if verb == ["status"] else {"environment": GOOD, "pid": 7, "slot": verb[1]}
        return Answer(0, json.dumps(reply), "")

    monkeypatch.setattr(connection, "ask", ask)
    found = asyncio.run(examine([Host("a"), Host("gone")], timeout_s=1, connect_timeout_s=1))
    assert [check.level for check in found["a"]] == [Level.OK, Level.OK]
    assert [check.level for check in found["gone"]] == [Level.FAIL]
