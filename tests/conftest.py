"""Fixtures that start real servers, shared by all tests. Nothing here touches the user's own state.

The tritonserver is unpacked once per machine into a cache folder, and every test's home links to it.
``SPARK_SPEECH_TEST_CACHE`` names another cache folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.settings import ServerSettings, Settings


@pytest.fixture(autouse=True, scope="session")
def _no_settings_of_the_user() -> Iterator[None]:
    """The environment's settings belong to the user, not to the tests."""
    saved = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("SPARK_SPEECH__")}
    yield
    os.environ.update(saved)


@pytest.fixture(scope="session")
def test_cache() -> Path:
    """A folder that outlives the test run: wheels and the unpacked tritonserver."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "spark-speech-tests"
    folder = Path(os.environ.get("SPARK_SPEECH_TEST_CACHE", default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def make_home(test_cache: Path) -> Callable[[Path], Path]:
    """Make a home in a given folder that shares the cached wheels and tritonserver."""
    from orchestrator.repository.wheels import wheel_folder

    shared_wheels = wheel_folder(test_cache)
    shared_wheels.mkdir(parents=True, exist_ok=True)
    (test_cache / "triton").mkdir(exist_ok=True)

    def make(folder: Path) -> Path:
        cache = folder / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        wheel_folder(cache).symlink_to(shared_wheels)
        (folder / "triton").symlink_to(test_cache / "triton")
        return folder

    return make


@pytest.fixture
def home(tmp_path: Path, make_home: Callable[[Path], Path]) -> Path:
    """A home of this test's own."""
    return make_home(tmp_path / "home")


@pytest.fixture(scope="session")
def tritonserver(test_cache: Path):  # type: ignore[no-untyped-def]  # imported late: it brings httpx and more
    """An installed tritonserver (`TritonInstall`)."""
    from orchestrator.runtime import triton

    return triton.install(test_cache, test_cache)


@pytest.fixture
def server_settings() -> ServerSettings:
    """Free ports, and times that end a broken test soon."""
    return _free_server_settings()


def _free_server_settings() -> ServerSettings:
    from orchestrator.runtime.ports import free_ports

    http, grpc, metrics = free_ports(3)
    return ServerSettings(
        http_port=http, grpc_port=grpc, metrics_port=metrics, ready_timeout_s=240, stop_timeout_s=10
    )


@pytest.fixture
def settings(home: Path, server_settings: ServerSettings) -> Settings:
    """Settings of this test's own home and free ports."""
    return Settings(paths={"home": home}, server=server_settings)  # type: ignore[arg-type]
