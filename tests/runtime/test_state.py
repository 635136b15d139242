"""The state file and the lock."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from orchestrator.errors import AlreadyRunningError
from orchestrator.runtime import state
from orchestrator.runtime.state import ServerState

MINE = ServerState(
    pid=os.getpid(),
    created=psutil.Process().create_time(),
    host="127.0.0.1",
    http_port=1,
    grpc_port=2,
    metrics_port=3,
    release="abc",
    models=("moonshine",),
    triton="2.51.0",
    log="/log",
    shm_prefix="spark_speech_test_",
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    assert state.read(tmp_path) is None
    state.write(tmp_path, MINE)
    assert state.read(tmp_path) == MINE
    state.remove(tmp_path, MINE)
    assert state.read(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"pid": 1}', '{"models": 3}'])
def test_a_damaged_file_counts_as_none(tmp_path: Path, content: str) -> None:
    path = state.state_path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert state.read(tmp_path) is None


def test_the_state_of_another_server_is_not_removed(tmp_path: Path) -> None:
    state.write(tmp_path, replace(MINE, pid=1))
    state.remove(tmp_path, MINE)
    assert state.read(tmp_path) == replace(MINE, pid=1)


def test_a_process_is_known_by_its_start_time_too() -> None:
    assert MINE.process() == psutil.Process()
    assert replace(MINE, created=MINE.created - 60).process() is None
    assert replace(MINE, pid=2**22 + 1).process() is None


def test_one_starter_at_a_time(tmp_path: Path) -> None:
    with (
        state.start_lock(tmp_path),
        pytest.raises(AlreadyRunningError, match="starting"),
        state.start_lock(tmp_path),
    ):
        pass
    with state.start_lock(tmp_path):
        pass
