"""Throw-away hosts, and fleets of them with a controller, for the tests of deployment.

``SPARK_SPEECH_DEPLOY_ALL=1`` (`make deploy-test`) runs the slow tests too.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.deploy.host import front as fronts
from tests.bed import Bed
from tests.bed.machine import BedUnavailableError
from tests.integration.deploy import environment as environments
from tests.integration.deploy.fleet import Fleet
from tests.integration.deploy.releases import Releases

MakeBed = Callable[..., Bed]
MakeFleet = Callable[..., Fleet]

slow = pytest.mark.skipif(
    not os.environ.get("SPARK_SPEECH_DEPLOY_ALL"),
    reason="takes minutes: make deploy-test runs it (SPARK_SPEECH_DEPLOY_ALL=1)",
)


@pytest.fixture(autouse=True)
def _a_front_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, HAProxy may take longer to answer than on a host."""
    monkeypatch.setattr(fronts, "TIMEOUT_S", 60.0)


def _beds(cache: Path) -> Iterator[MakeBed]:
    beds: list[Bed] = []

    def make(count: int, **options: Any) -> Bed:
        try:
            bed = Bed(count, cache=cache, **options)
        except BedUnavailableError as reason:
            pytest.skip(str(reason))
        beds.append(bed)
        return bed.start()

    yield make
    for bed in beds:
        bed.close()


@pytest.fixture
def make_bed(test_cache: Path) -> Iterator[MakeBed]:
    """Make a bed of some hosts, booted; closed when the test ends, however it ends."""
    yield from _beds(test_cache)


@pytest.fixture(scope="module")
def make_shared_bed(test_cache: Path) -> Iterator[MakeBed]:
    """A bed that lives as long as the module's tests."""
    yield from _beds(test_cache)


@pytest.fixture(scope="session")
def host_environment(test_cache: Path) -> Iterator[Path]:
    """The Python environment that all hosts run, where their services see it: ``/tmp`` is each one's own."""
    if any(Path(sysconfig.get_path("purelib")).is_relative_to(own) for own in ("/tmp", "/var/tmp")):
        pytest.skip("the hosts' services have a /tmp of their own: they cannot see packages below this one")
    folder = test_cache / "bed" / f"environment-{os.getpid()}"
    for left in folder.parent.glob("environment-*"):
        if not Path("/proc", left.name.removeprefix("environment-")).exists():  # its run was killed
            shutil.rmtree(left, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield environments.make(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory, make_home: Callable[[Path], Path]) -> Releases:
    """What can be rolled out; all controllers share the home."""
    folder = tmp_path_factory.mktemp("controller")
    return Releases(make_home(folder / "home"), folder / "models")


@pytest.fixture(scope="session")
def fleet_of(
    releases: Releases, host_environment: Path, tritonserver: Any, test_cache: Path
) -> Callable[..., Fleet]:
    """A controller over a bed."""

    def make(bed: Bed, folder: Path, **variables: Any) -> Fleet:
        triton = test_cache / "triton"
        return Fleet(bed, folder, releases, host_environment, triton, variables)

    return make


@pytest.fixture
def make_fleet(make_bed: MakeBed, fleet_of: Callable[..., Fleet], tmp_path: Path) -> MakeFleet:
    """Make a fleet of this test's own: how many hosts, the bed's options, and the inventory's variables."""

    def make(count: int, *, disks: dict[str, int] | None = None, **variables: Any) -> Fleet:
        return fleet_of(make_bed(count, disks=disks), tmp_path / "controller", **variables)

    return make
