"""`spark_speech_runtime: container` on a host with a Docker daemon of its own: the real image, really built.

Only the image's base is not the real one (`docker_base`), and the host's control groups have no controllers:
memory limits are asked for and not kept. The tests use one host one after the other.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator import resources
from orchestrator.client import SpeechClient
from orchestrator.errors import SpeechError
from orchestrator.repository.builder import Builder
from orchestrator.repository.plan import ModelOptions, make_plan
from orchestrator.repository.validate import machine
from tests.bed import Host
from tests.integration import docker_base
from tests.integration.deploy.conftest import MakeBed, slow
from tests.integration.deploy.fleet import HOME, Fleet, rows
from tests.integration.deploy.load import DIALOGUE
from tests.integration.deploy.releases import Releases
from tests.integration.docker_daemon import missing

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(missing() is not None, reason=f"Docker cannot run here: {missing()}"),
    slow,
]
CHECKOUT = Path(__file__).resolve().parents[3]
BASE = "spark-speech-base:test"
BUILD_S = 1500


def release(releases: Releases, number: int) -> str:
    """The id of a release of Moonshine alone, which needs neither a GPU nor torch."""
    plan = make_plan(
        {"moonshine": "embedded"},
        options={"moonshine": ModelOptions(max_window_s=20.0 + number)},
        target="aarch64" if machine() == "aarch64" else "x86_64",
    )
    return Builder(home=releases.home, models=resources.model_repository()).build(plan).release.id


def docker(host: Host, *arguments: str, timeout: float = 120) -> str:
    return host.run("docker", *arguments, timeout=timeout).stdout.strip()


def images(host: Host) -> dict[str, str]:
    """Our names of images, and their ids."""
    lines = docker(
        host, "image", "ls", "--no-trunc", "--format={{.Repository}}:{{.Tag}} {{.ID}}"
    ).splitlines()
    return {name: digest for name, digest in map(str.split, lines) if name.startswith("spark-speech:")}


def containers(host: Host) -> dict[str, str]:
    """Running containers and the images they were made from."""
    lines = docker(host, "ps", "--no-trunc", "--format={{.Names}} {{.Image}}").splitlines()
    return dict(line.split() for line in lines)


def heard(host: Host) -> str:
    with SpeechClient(f"{host.address}:8001") as client:
        return client.transcribe(DIALOGUE, diarize=False, engine="moonshine").text


@contextmanager
def used(host: Host) -> Iterator[list[str]]:
    """Applications use the host until the block ends; what failed, or was heard otherwise than before."""
    expected, failures, done = heard(host), [], threading.Event()

    def use() -> None:
        while not done.wait(0.5):
            try:
                said = heard(host)
                answer = httpx.get(f"http://{host.address}:9000/v1/health/ready", timeout=30)
            except (SpeechError, httpx.HTTPError) as error:
                failures.append(f"{type(error).__name__}: {error}")
                continue
            if said != expected or answer.status_code != 200:
                failures.append(f"{answer.status_code} {said!r}")

    thread = threading.Thread(target=use)
    thread.start()
    try:
        yield failures
    finally:
        done.set()
        thread.join()


def assert_serves(fleet: Fleet, wanted: str, *, contained: bool = True) -> None:
    host = fleet.hosts[0]
    assert fleet.serving(host) == wanted, fleet.state(host)
    assert fleet.running(host) == [wanted]
    status = fleet.run("status").data["hosts"]["spark1"]
    assert status["verdict"] == "healthy", status
    assert not host.path(f"{HOME}/deploy/lock.json").exists()
    assert len(heard(host).split()) > 20
    slot = fleet.state(host)["active"]
    names = {name: image for name, image in containers(host).items() if f"spark-speech-{slot}" in name}
    digest = fleet.state(host)["slots"][slot]["environment"]
    assert len(containers(host)) == len(names) == (2 if contained else 0), containers(host)
    assert set(names.values()) <= {f"spark-speech:{digest}"}
    assert ((host.path(f"{HOME}/images") / digest).is_dir()) is contained


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(CHECKOUT)]
    subprocess.run(build, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tritonserver: Any) -> Iterator[Path]:
    """The root of the base image, a tarball."""
    root = tmp_path_factory.mktemp("base") / "root"
    root.mkdir()
    docker_base.write(root, CHECKOUT, tritonserver.prefix)
    archive = root.with_suffix(".tar")
    command = ["tar", "-C", str(root), "--owner=0", "--group=0", "-cf", str(archive), "."]
    subprocess.run(command, check=True)
    shutil.rmtree(root)
    yield archive
    archive.unlink()


@pytest.fixture(scope="module")
def fleet(
    make_shared_bed: MakeBed,
    fleet_of: Callable[..., Fleet],
    tmp_path_factory: pytest.TempPathFactory,
    releases: Releases,
    wheel: Path,
    base: Path,
) -> Fleet:
    """One host with Docker that serves the first release in containers."""
    bed = make_shared_bed(1, disks={"/var/lib/docker": 0})
    host = bed.hosts[0]
    settings = {"iptables": False, "ip6tables": False, "bridge": "none"}
    host.run("mkdir", "-p", "/etc/docker")
    host.path("/etc/docker/daemon.json").write_text(json.dumps(settings))
    host.run("systemctl", "start", "docker", timeout=120)
    imported = ["docker", "import", "-c", "ENV PATH=/usr/local/bin:/usr/bin", "-", BASE]
    with base.open("rb") as archive:
        inside = ["nsenter", "--all", "--target", str(host.pid), "--", *imported]
        subprocess.run(inside, stdin=archive, check=True, capture_output=True, timeout=BUILD_S)
    fleet = fleet_of(
        bed,
        tmp_path_factory.mktemp("containers"),
        spark_speech_runtime="container",
        # A busy machine may take long for what a Spark does in seconds.
        spark_speech_confirm_s=1800,
        spark_speech_gate_max_latency_s=300,
        spark_speech_wheel=str(wheel),
        spark_speech_base_image=docker(host, "image", "inspect", "--format={{.Id}}", BASE),
        spark_speech_container_limits={
            "SPARK_SPEECH_TRITON_MEMORY": "4g",
            "SPARK_SPEECH_GATEWAY_MEMORY": "1g",
            "SPARK_SPEECH_SHM": "256m",
            # A host of the bed cannot have more than its machine gives it.
            "SPARK_SPEECH_MEMLOCK": resource.getrlimit(resource.RLIMIT_MEMLOCK)[1],
            "SPARK_SPEECH_NOFILE": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        },
    )
    assert fleet.deploy(release(releases, 1)).data["outcome"] == "done"
    return fleet


def test_the_first_deploy_builds_the_image_and_serves_from_it(fleet: Fleet, releases: Releases) -> None:
    assert_serves(fleet, release(releases, 1))
    host = fleet.hosts[0]
    names = images(host)
    assert len(set(names.values())) == 1, names
    state = fleet.state(host)
    digest = state["slots"][state["active"]]["environment"]
    assert names[f"spark-speech:{digest}"] == f"sha256:{digest}"


def test_a_second_deploy_changes_and_restarts_nothing(fleet: Fleet, releases: Releases) -> None:
    host = fleet.hosts[0]
    before = docker(host, "ps", "--no-trunc", "--quiet")
    again = fleet.deploy(release(releases, 1))
    assert again.data["outcome"] == "unchanged"
    assert rows(again)["spark1"]["changed"] == 0
    assert docker(host, "ps", "--no-trunc", "--quiet") == before


def test_a_new_release_and_back_and_nobody_notices(fleet: Fleet, releases: Releases) -> None:
    old, new = release(releases, 1), release(releases, 2)
    with used(fleet.hosts[0]) as failures:
        assert fleet.deploy(new).data["outcome"] == "done"
        assert_serves(fleet, new)
        fleet.rollback()
        assert_serves(fleet, old)
    assert failures == []


def test_the_runtime_changes_and_a_rollback_changes_it_back(fleet: Fleet, releases: Releases) -> None:
    old, new = release(releases, 1), release(releases, 2)
    fleet.write(spark_speech_runtime="systemd", spark_speech_wheel="")
    try:
        with used(fleet.hosts[0]) as failures:
            assert fleet.deploy(new).data["outcome"] == "done"
            assert_serves(fleet, new, contained=False)
            fleet.rollback()
            assert_serves(fleet, old)
            fleet.rollback(new)
            assert_serves(fleet, new, contained=False)
        assert failures == []
    finally:
        fleet.write()
