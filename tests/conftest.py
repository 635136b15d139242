"""Fixtures that start real servers, shared by all tests. Nothing here touches the user's own state.

The tritonserver is unpacked once per machine into a cache folder, and every test's home links to it.
``SPARK_SPEECH_TEST_CACHE`` names another cache folder.
"""

from __future__ import annotations

import io
import os
import signal
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from orchestrator.errors import UnsupportedModelError
from orchestrator.settings import ServerSettings, Settings

if TYPE_CHECKING:
    from orchestrator.repository.release import Release
    from orchestrator.runtime.server import TritonServer
    from orchestrator.runtime.triton import TritonInstall


# A busy machine may be slow: no example has to be made or to finish in a given time.
hypothesis.settings.register_profile(
    "suite",
    hypothesis.settings.default,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True, scope="session")
def _no_settings_of_the_user() -> Iterator[None]:
    """The environment's settings belong to the user, not to the tests."""
    saved = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("SPARK_SPEECH__")}
    yield
    os.environ.update(saved)


@pytest.fixture(autouse=True, scope="session")
def _children_take_interrupts() -> None:
    """A test run in the background of a shell ignores SIGINT, and so would all that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
def tritonserver(test_cache: Path) -> TritonInstall:
    """An installed tritonserver (`TritonInstall`)."""
    from orchestrator.runtime import triton

    return triton.install(test_cache, test_cache)


@pytest.fixture(scope="session")
def default_home(tmp_path_factory: pytest.TempPathFactory, make_home: Callable[[Path], Path]) -> Path:
    """A home shared by the whole run, with the default release in it; tests leave it as it is."""
    return make_home(tmp_path_factory.mktemp("default") / "home")


@pytest.fixture(scope="session")
def default_release(default_home: Path) -> Release:
    """The release that `spark-speech build` makes without options."""
    from orchestrator import resources
    from orchestrator.repository.builder import Builder
    from orchestrator.repository.plan import make_plan
    from orchestrator.repository.validate import machine

    plan = make_plan(target="aarch64" if machine() == "aarch64" else "x86_64")
    return Builder(home=default_home, models=resources.model_repository()).build(plan).release


@pytest.fixture(scope="session")
def default_server(
    default_home: Path, default_release: Release, tritonserver: TritonInstall
) -> Iterator[TritonServer]:
    """A running tritonserver with the default release; tests must leave it running."""
    with server_of(default_release, default_home, tritonserver) as server:
        yield server


@pytest.fixture
def server_settings() -> ServerSettings:
    """Free ports, and times that end a broken test soon."""
    return free_server_settings()


@contextmanager
def server_of(
    release: Release, home: Path, triton: TritonInstall, environment: Mapping[str, str] | None = None
) -> Iterator[TritonServer]:
    """A running server with ``release``, on free ports."""
    from orchestrator.runtime.server import TritonServer

    with TritonServer(
        release.model_repository,
        release.models,
        triton=triton,
        home=home,
        settings=free_server_settings(),
        release=release.id,
        environment=environment,
    ) as server:
        yield server


def free_server_settings() -> ServerSettings:
    """Settings with ports that nothing listens on."""
    from orchestrator.runtime.ports import free_ports

    http, grpc, metrics = free_ports(3)
    return ServerSettings(
        http_port=http, grpc_port=grpc, metrics_port=metrics, ready_timeout_s=240, stop_timeout_s=10
    )


@pytest.fixture
def settings(home: Path, server_settings: ServerSettings) -> Settings:
    """Settings of this test's own home and free ports."""
    return Settings(paths={"home": home}, server=server_settings)  # type: ignore[arg-type]


NEMO_CONFIG = """
target: nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel
sample_rate: 16000
preprocessor: {window_stride: 0.01}
encoder: {_target_: nemo.collections.asr.modules.ConformerEncoder, subsampling_factor: 8}
"""


def write_nemo(path: Path, *members: str, mode: str = "w", config: str = NEMO_CONFIG) -> Path:
    """A checkpoint that looks right from outside: a configuration, and weights that are none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member in members or ("./model_config.yaml", "./model_weights.ckpt"):
            content = config.encode() if member.endswith(".yaml") else b"w" * 5000
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def nemo(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`write_nemo`; the build takes what it writes for checkpoints that only NeMo can compute."""

    def refuse(*args: object) -> None:
        raise UnsupportedModelError("the encoder is only a name", fix="none")

    monkeypatch.setattr("orchestrator.repository.lean.convert", refuse)
    return write_nemo
