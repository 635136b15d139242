from __future__ import annotations

import configparser
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.deploy import workspace as workspaces
from orchestrator.deploy.workspace import sweep, unwritten, workspace


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspaces, "_MEMORY", tmp_path)


def test_it_is_private_and_gone_afterwards() -> None:
    with workspace(forks=3, connect_timeout_s=4) as folder:
        for path in (folder, folder / "cp", folder / "tmp"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        settings = configparser.ConfigParser(interpolation=None)
        settings.read(folder / "ansible.cfg")
        assert settings["defaults"]["forks"] == "3"
        assert settings["defaults"]["timeout"] == "4"
        assert settings["defaults"]["local_tmp"].startswith(str(folder))
        assert settings["ssh_connection"]["pipelining"] == "True"
    assert not folder.exists()


def test_it_is_gone_after_an_error_too() -> None:
    with pytest.raises(KeyboardInterrupt), workspace(forks=1, connect_timeout_s=1) as folder:
        raise KeyboardInterrupt
    assert not folder.exists()


def test_the_next_run_deletes_what_a_killed_one_left(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from orchestrator.deploy import workspace as workspaces
workspaces._MEMORY = Path({str(tmp_path)!r})
with workspaces.workspace(forks=1, connect_timeout_s=1):
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = tmp_path.glob("spark-speech-run-*")
    with workspace(forks=1, connect_timeout_s=1) as own:
        assert not left.exists()
        assert sweep(tmp_path) == []  # one that is in use stays
        assert own.exists()


def test_folders_that_are_not_ours_stay(tmp_path: Path) -> None:
    strange = tmp_path / "spark-speech-run-strange"
    strange.mkdir()
    (tmp_path / "spark-speech-run-link").symlink_to(strange)
    assert sweep(tmp_path) == []
    assert strange.exists()


@pytest.mark.parametrize("size", [0, 10, 1_000_000])
def test_what_is_written_goes_nowhere(tmp_path: Path, size: int) -> None:
    path = tmp_path / "run" / "command"
    with unwritten(path):
        path.chmod(0o600)
        with path.open("w", encoding="utf-8") as sink:
            sink.write("s" * size)
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert path.stat().st_size == 0


def test_sockets_are_elsewhere_where_their_paths_would_be_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(workspaces, "_MEMORY", long)
    with workspace(forks=1, connect_timeout_s=1) as folder:
        assert "control_path_dir = ~/.ansible/cp" in (folder / "ansible.cfg").read_text(encoding="utf-8")
