"""Files and folders against what they should be."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from orchestrator.deploy.host import expectations
from orchestrator.errors import ConfigurationError


def unmet(*entries: dict[str, Any]) -> list[str]:
    found: list[str] = expectations.unmet(entries)["unmet"]
    return [Path(path).name for path in found]


def test_every_property_counts(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    file.chmod(0o640)
    owner = pwd.getpwuid(os.getuid()).pw_name
    group = grp.getgrgid(file.stat().st_gid).gr_name
    right = {
        "path": str(file),
        "state": "file",
        "mode": "0640",
        "owner": owner,
        "group": group,
        "sha256": hashlib.sha256(b"content").hexdigest(),
    }
    assert unmet(right) == []
    for key, wrong in [
        ("state", "directory"),
        ("mode", "0644"),
        ("owner", "nobody-here"),
        ("group", "nobody-here"),
        ("sha256", "0" * 64),
    ]:
        assert unmet({**right, key: wrong}) == ["file"], key


def test_folders_links_and_absence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("../elsewhere")
    assert (
        unmet(
            {"path": str(tmp_path / "folder"), "state": "directory"},
            {"path": str(tmp_path / "link"), "state": "link", "target": "../elsewhere"},
            {"path": str(tmp_path / "none"), "state": "absent"},
        )
        == []
    )
    assert unmet(
        {"path": str(tmp_path / "folder"), "state": "absent"},
        {"path": str(tmp_path / "link"), "state": "link", "target": "elsewhere"},
        {"path": str(tmp_path / "link"), "state": "directory"},
        {"path": str(tmp_path / "none"), "state": "file"},
    ) == ["folder", "link", "link", "none"]


def test_what_cannot_be_understood() -> None:
    with pytest.raises(ConfigurationError, match="stat"):
        expectations.unmet([{"path": "/", "stat": "directory"}])
