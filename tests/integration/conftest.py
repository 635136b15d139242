"""A real tritonserver with every kind of model, for all tests that only use one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import resources
from tests.integration import talk as talks
from tests.integration.talk import Talk

MODELS = {"parakeet": "embedded", "parakeet_streaming": "embedded", "diarizer": "embedded"}


@pytest.fixture(scope="session")
def triton(
    tmp_path_factory: pytest.TempPathFactory, make_home: Callable[[Path], Path], tritonserver: Any
) -> Iterator[Any]:
    """A running `TritonServer`; tests must leave it running, and no stream open."""
    from orchestrator.repository.builder import Builder
    from orchestrator.repository.plan import make_plan
    from orchestrator.repository.validate import machine
    from tests.conftest import server_of

    home = make_home(tmp_path_factory.mktemp("live") / "home")
    plan = make_plan(MODELS, target="aarch64" if machine() == "aarch64" else "x86_64")
    release = Builder(home=home, models=resources.model_repository()).build(plan).release
    with server_of(release, home, tritonserver) as server:
        yield server
        assert server.state.process() is not None, "it must have lived through all tests"


@pytest.fixture(scope="session")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Talk:
    """Files that tests read and do not change."""
    return talks.write(tmp_path_factory.mktemp("talk"))
