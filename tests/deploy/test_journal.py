from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.deploy.journal import since_start
from orchestrator.errors import NotRunningError


def programs(folder: Path, systemctl: str, journalctl: str = "") -> None:
    """Stand-ins for systemd's programs: shell scripts."""
    for name, text in (("systemctl", systemctl), ("journalctl", journalctl)):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)


@pytest.fixture(autouse=True)
def _path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_the_log_of_this_start(tmp_path: Path) -> None:
    programs(
        tmp_path,
        "printf 'InvocationID=abc\\nNRestarts=0\\nLoadState=loaded\\n'",
        'case "$*" in *_SYSTEMD_INVOCATION_ID=abc*) echo started;; *) echo other;; esac',
    )
    assert since_start("x.service") == "started\n"


def test_a_restart_by_systemd_counts_as_an_error(tmp_path: Path) -> None:
    programs(tmp_path, "printf 'InvocationID=abc\\nNRestarts=2\\nLoadState=loaded\\n'", "echo fine")
    assert "ERROR x.service was restarted 2 times" in since_start("x.service")


@pytest.mark.parametrize(
    "systemctl",
    [
        "printf 'InvocationID=\\nLoadState=loaded\\n'",
        "printf 'InvocationID=a\\nLoadState=not-found\\n'",
        "exit 1",
    ],
)
def test_no_such_unit(tmp_path: Path, systemctl: str) -> None:
    programs(tmp_path, systemctl)
    with pytest.raises(NotRunningError):
        since_start("x.service")
