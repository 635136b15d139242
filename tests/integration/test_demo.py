"""The demo: from nothing but Python packages to who said what, with nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.repository.release import ReleaseStore
from orchestrator.runtime import process, state

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def demo_home(tmp_path_factory: pytest.TempPathFactory, make_home: Callable[[Path], Path]) -> Path:
    return make_home(tmp_path_factory.mktemp("demo") / "home")


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", "demo", *arguments],
        env={
            **os.environ,
            "SPARK_SPEECH__PATHS__HOME": str(home),
            # A machine that runs other things beside the tests is slow, not broken.
            "SPARK_SPEECH__CLIENT__TIMEOUT_S": "800",
        },
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def assert_nothing_runs(home: Path) -> None:
    assert state.read(home / "demo") is None
    for running in psutil.process_iter(["cmdline"]):
        assert str(home) not in " ".join(running.info["cmdline"] or [])


def spoken(text: str) -> list[str]:
    return ["".join(filter(str.isalpha, word.lower())) for word in text.split()]


def test_two_people_are_heard_and_told_apart(demo_home: Path) -> None:
    demo = start(demo_home, "--json")
    output, errors = demo.communicate()
    assert demo.returncode == 0, errors
    result: dict[str, Any] = json.loads(output)
    transcript = result["transcript"]
    assert transcript["engine"] == "moonshine"
    assert transcript["duration"] == 30.0
    assert len({segment["speaker"] for segment in transcript["segments"]} - {None}) == 2
    words = [word for segment in transcript["segments"] for word in spoken(segment["text"])]
    assert {"originally", "chicago", "jersey"} <= set(words)
    assert set(result["seconds"]) == {"tritonserver", "build", "start", "transcribe", "stop"}
    assert ReleaseStore(demo_home).current().id == result["release"]
    assert_nothing_runs(demo_home)


def test_ctrl_c_leaves_nothing_running(demo_home: Path) -> None:
    demo = start(demo_home)
    deadline = time.monotonic() + 300
    while (known := state.read(demo_home / "demo")) is None or len(process.members(known)) < 2:
        assert demo.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    demo.send_signal(signal.SIGINT)
    _, errors = demo.communicate(timeout=120)
    assert demo.returncode == 130
    assert "Traceback" not in errors
    assert process.members(known) == []
    assert process.shared_memory(known) == []
    assert_nothing_runs(demo_home)
