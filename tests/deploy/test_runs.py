from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from orchestrator.deploy.runs import registered


def notes(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "deploy" / "runs").iterdir())


def killed(home: Path, run: str) -> None:
    code = f"""
import os
from pathlib import Path
from orchestrator.deploy.runs import registered
with registered(Path({str(home)!r}), {run!r}):
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)


def test_a_clean_run_leaves_nothing(tmp_path: Path) -> None:
    with registered(tmp_path, "r1") as own:
        assert notes(tmp_path) == ["r1.run"]
        own.clean = True
    assert notes(tmp_path) == []


def test_a_killed_run_is_known_to_be_dead_until_that_is_settled(tmp_path: Path) -> None:
    killed(tmp_path, "r1")
    with registered(tmp_path, "r2") as own:
        assert own.dead == ("r1",)
        own.clean = True
    with registered(tmp_path, "r3") as own:
        assert own.dead == ("r1",)
        own.clean = own.settled = True
    assert notes(tmp_path) == []


def test_a_run_that_goes_on_is_not_dead(tmp_path: Path) -> None:
    with registered(tmp_path, "r1"), registered(tmp_path, "r2") as own:
        assert own.dead == ()


def test_a_run_that_left_hosts_behind_may_be_taken_over(tmp_path: Path) -> None:
    with registered(tmp_path, "r1"):
        pass
    with registered(tmp_path, "r2") as own:
        assert own.dead == ("r1",)


def test_what_is_older_than_any_lock_is_forgotten(tmp_path: Path) -> None:
    killed(tmp_path, "r1")
    os.utime(tmp_path / "deploy" / "runs" / "r1.run", (1, 1))
    with registered(tmp_path, "r2") as own:
        assert own.dead == ()
        own.clean = True
    assert notes(tmp_path) == []
