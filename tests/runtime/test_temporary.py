"""Servers for one job."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import AlreadyRunningError
from orchestrator.progress import SilentProgress
from orchestrator.repository.manifest import Manifest
from orchestrator.repository.release import Release
from orchestrator.runtime import state
from orchestrator.runtime.temporary import temporary_server
from orchestrator.runtime.triton import TritonInstall
from orchestrator.settings import Settings


def test_a_second_one_of_the_same_name_is_told_to_wait(tmp_path: Path) -> None:
    settings = Settings(paths={"home": tmp_path})  # type: ignore[arg-type]
    manifest = Manifest.create(target="x86_64", device="cpu", packages={}, models=(), files=())
    install = TritonInstall(tmp_path / "triton", "2.51.0", "wheel", ())
    release = Release(tmp_path, manifest)
    with (
        state.start_lock(tmp_path / "demo"),
        pytest.raises(AlreadyRunningError) as caught,
        temporary_server(settings, release, install, SilentProgress(), name="demo"),
    ):
        pass
    assert caught.value.fix == "wait until the other demo has ended"
