"""Temporary files of a server that has ended."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.runtime import scratch
from orchestrator.runtime.state import ServerState

START = 1_700_000_000.0
ENDED = ServerState(
    pid=2**22 + 1,
    created=START,
    host="127.0.0.1",
    http_port=1,
    grpc_port=2,
    metrics_port=3,
    release=None,
    models=("moonshine",),
    triton="2.51.0",
    log="/log",
    shm_prefix="spark_speech_0a1b_",
)


def made(parent: Path, name: str, when: float) -> Path:
    folder = parent / name
    folder.mkdir()
    os.utime(folder, (when, when))
    return folder


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When other live servers began; empty until a test says so."""
    starts: list[float] = []
    monkeypatch.setattr(scratch, "_starts_of_live_servers", lambda other_than: starts)
    return starts


def test_a_new_servers_folder_takes_the_place_of_older_ones(tmp_path: Path) -> None:
    first = scratch.create(tmp_path, "spark_speech_1_")
    (first / "weights").write_bytes(b"w")
    second = scratch.create(tmp_path, "spark_speech_2_")
    assert second.is_relative_to(tmp_path)
    assert (first.exists(), second.is_dir()) == (False, True)


def test_it_goes_with_its_server(tmp_path: Path, live: list[float]) -> None:
    folder = scratch.create(tmp_path, ENDED.shm_prefix)
    (folder / "deep").mkdir()
    (folder / "deep" / "weights").write_bytes(b"w")
    other = tmp_path / "run" / "server.json"
    other.touch()
    scratch.remove(tmp_path, ENDED)
    scratch.remove(tmp_path, ENDED)
    assert list((tmp_path / "run").iterdir()) == [other]


def test_the_backends_folders_are_known_by_their_time(tmp_path: Path, live: list[float]) -> None:
    made(tmp_path, "python_env_before", START - 10)
    ours = made(tmp_path, "python_env_ours", START + 1)
    made(tmp_path, "python_env_later", START + 3600)
    made(tmp_path, "something_else", START + 1)
    assert scratch.backend_folders(ENDED, tmp_path) == [ours]
    assert scratch.backend_folders(replace(ENDED, created=START + 3600), tmp_path) != [ours]


def test_what_a_live_server_may_have_made_stays(tmp_path: Path, live: list[float]) -> None:
    folder = made(tmp_path, "python_env_whose", START + 1)
    live.append(START - 3600)
    assert scratch.backend_folders(ENDED, tmp_path) == [folder], "that one had its backend an hour before"
    live.append(START - 1)
    assert scratch.backend_folders(ENDED, tmp_path) == []


def test_a_folder_with_something_in_it_stays(
    tmp_path: Path, live: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "BACKEND_PARENT", tmp_path)
    empty, full = made(tmp_path, "python_env_a", START), made(tmp_path, "python_env_b", START)
    (full / "bin").mkdir()
    os.utime(full, (START, START))
    scratch.remove(tmp_path / "home", ENDED)
    assert (empty.exists(), full.exists()) == (False, True)
