"""Role `image` with a real Docker: built on the host, loaded from a file, and what units start with."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import resources
from orchestrator.deploy.host import releases
from orchestrator.deploy.host.layout import Layout
from orchestrator.deploy.host.state import Content, HostState
from tests.integration.docker_daemon import Docker, daemon, missing

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.skipif(missing() is not None, reason=f"Docker cannot run here: {missing()}"),
]
DOCKERFILE = """
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY compose/healthy.py /healthy.py
COPY dist/*.whl /wheel/
"""
"""In place of the real one, which test_compose.py builds: here, only that it is built counts."""


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    kept = tmp_path_factory.mktemp("image") / "docker"
    kept.mkdir()
    with daemon(kept) as running:
        yield running


@pytest.fixture(scope="module")
def base(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of an image with nothing but a file."""
    root = tmp_path_factory.mktemp("root")
    (root / "empty").touch()
    docker.import_root(root, "base:test")
    return docker("image", "inspect", "--format={{.Id}}", "base:test")


@dataclass
class Host:
    """This machine as a host, with a home and a folder of units of the test's own."""

    docker: Docker
    folder: Path
    variables: dict[str, Any]

    @property
    def images(self) -> Path:
        return self.folder / "home/images"

    def unit(self, service: str) -> str:
        return (self.folder / f"units/spark-speech-{service}@green.service.d/container.conf").read_text()

    def play(self, *options: str, ok: bool = True, **given: Any) -> tuple[int, str, str]:
        """Run the role: how much changed, the image's digest, what was printed."""
        values = self.folder / "vars.json"
        values.write_text(json.dumps({**self.variables, **given}))
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", f"-e@{values}"]
        environment = {**self.docker.environment, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOME": str(self.folder)}
        done = subprocess.run(
            [*command, *options, str(self.folder / "playbooks/site.yml")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert (done.returncode == 0) is ok, done.stdout[-4000:] + done.stderr[-2000:]
        digest = re.search(r'"image_digest": "([0-9a-f]{64})"', done.stdout)
        changed = re.search(r"changed=(\d+)", done.stdout)
        return int(changed[1]) if changed else 0, digest[1] if digest else "", done.stdout


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, docker: Docker, base: str) -> Host:
    folder = tmp_path_factory.mktemp("host")
    playbooks = folder / "playbooks"
    for role in ("image", "spark_speech"):
        shutil.copytree(resources.playbooks() / "roles" / role, playbooks / "roles" / role)
    shutil.copytree(resources.compose(), folder / "compose")
    (folder / "compose/Dockerfile").write_text(DOCKERFILE)
    wheel = folder / "spark_speech-1-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    for name in ("home", "units"):
        (folder / name).mkdir()
    unit = {"name": "image", "tasks_from": "unit"}
    tasks = [
        {"name": "Tell", "ansible.builtin.debug": {"var": "image_digest"}},
        {"name": "Let the slot's units start containers", "ansible.builtin.include_role": unit},
    ]
    site = [{"hosts": "localhost", "gather_facts": False, "roles": ["spark_speech", "image"], "tasks": tasks}]
    (playbooks / "site.yml").write_text(yaml.safe_dump(site))
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "spark_speech_home": str(folder / "home"),
        "spark_speech_unit_dir": str(folder / "units"),
        "spark_speech_user": "root",
        "spark_speech_slot": "green",
        "spark_speech_wheel": str(wheel),
        "spark_speech_base_image": base,
        "spark_speech_container_limits": {"SPARK_SPEECH_SHM": "8g"},
        "preflight_report": {"facts": {"runtime": "container", "gpus": [{"name": "NVIDIA GB10"}]}},
    }
    return Host(docker, folder, variables)


@pytest.fixture(scope="module")
def digest(host: Host, base: str) -> str:
    """Of the image, once it was built on the host."""
    changed, _, _ = host.play("--check")
    assert changed > 0
    assert host.docker("image", "ls", "--quiet", "--filter=reference=spark-speech") == ""
    assert list((host.folder / "home").iterdir()) == list((host.folder / "units").iterdir()) == []
    changed, digest, _ = host.play()
    assert changed > 0
    found = host.docker("image", "inspect", "--format={{.Id}}", f"spark-speech:{digest}")
    assert found == f"sha256:{digest}"
    assert json.loads((host.images / digest / "image.json").read_text())["base"] == base
    assert not list(host.images.glob(".*")), "the folder it was built in is gone"
    return digest


def test_the_second_run_changes_nothing(host: Host, digest: str) -> None:
    changed, again, text = host.play()
    assert changed == 0, text
    assert again == digest


def test_the_units_start_compose_with_what_the_host_knows(host: Host, digest: str) -> None:
    environment = (host.images / "host.env").read_text().splitlines()
    assert "COMPOSE_FILE=compose.yaml:compose.gpu.yaml" in environment
    assert "SPARK_SPEECH_SHM=8g" in environment
    assert f"SPARK_SPEECH_UID={os.getuid()}" in environment
    kept = {path.name for path in (host.images / digest / "compose").iterdir()}
    assert kept == {"compose.yaml", "compose.gpu.yaml", "cuda.env", "no-secrets.env"}
    for service in ("triton", "gateway"):
        assert not (host.folder / f"units/spark-speech-{service}@.service.d").exists(), "this slot's alone"
        starts = re.findall(r"^ExecStart=(.*)$", host.unit(service), re.MULTILINE)
        assert starts[0] == "", "the other runtime's command is taken back"
        assert shlex.split(starts[1])[-2:] == [service, service]


def test_a_unit_sees_that_its_container_died(host: Host, digest: str, tmp_path: Path) -> None:
    """The unit's own commands: the first stays while the container runs and fails with it."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    for path in [sleep, *re.findall(r"(/\S+) \(0x", subprocess.check_output(["ldd", sleep], text=True))]:
        (tmp_path / "root" / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "root" / path[1:])
    host.docker.import_root(tmp_path / "root", "sleeper:test")
    # The real file needs the real image; the commands are what counts here.
    sleeper = {"image": "sleeper:test", "network_mode": "host", "entrypoint": [sleep, "600"]}
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump({"services": {"triton": sleeper}}))
    unit = host.unit("triton").replace("%i", "green")
    start, stop, after = (
        shlex.split(re.findall(rf"^{name}=-?(\S.*)$", unit, re.MULTILINE)[-1])
        for name in ("ExecStart", "ExecStop", "ExecStopPost")
    )
    for ended_by in ("kill", "stop"):
        process = subprocess.Popen(
            start, cwd=tmp_path, env=dict(host.docker.environment), start_new_session=True
        )
        try:
            deadline = time.monotonic() + 90
            while not (running := host.docker("ps", "--quiet")):
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.2)
            if ended_by == "kill":
                host.docker("kill", running)
                assert process.wait(90) != 0
            else:
                host.docker.run(*stop, cwd=tmp_path)
                process.wait(90)
            host.docker.run(*after, cwd=tmp_path)
            assert host.docker("ps", "--all", "--quiet") == ""
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def test_a_host_without_a_network_loads_the_same_image(host: Host, digest: str, tmp_path: Path) -> None:
    tarball = tmp_path / "image.tar"
    host.docker("save", f"--output={tarball}", f"spark-speech:{digest}")
    host.docker("image", "rm", "--force", f"sha256:{digest}")
    asked = {"spark_speech_image_tarball": str(tarball), "spark_speech_image": f"sha256:{digest}"}
    changed, loaded, _ = host.play(**asked)
    assert changed > 0
    assert loaded == digest
    assert not list(host.images.glob(".load*"))
    assert host.play(**asked)[0] == 0
    text = host.play(ok=False, **asked | {"spark_speech_image": f"sha256:{'0' * 64}"})[2]
    assert f"holds the image sha256:{digest}" in " ".join(text.split())


def test_a_damaged_tarball_is_refused(host: Host, digest: str, tmp_path: Path) -> None:
    """Docker compares each layer with its digest; what is not there afterwards cannot be started."""
    whole, damaged = tmp_path / "image.tar", tmp_path / "damaged.tar"
    host.docker("save", f"--output={whole}", f"spark-speech:{digest}")
    content = whole.read_bytes()
    assert content.count(b"a wheel") == 1, "the layer with the wheel"
    damaged.write_bytes(content.replace(b"a wheel", b"a whale"))
    host.docker("image", "rm", "--force", f"sha256:{digest}")
    try:
        host.play(ok=False, spark_speech_image_tarball=str(damaged))
        assert host.docker("image", "ls", "--quiet", "--filter=reference=spark-speech") == ""
        assert not list(host.images.glob(".load*"))
    finally:
        host.docker("load", f"--input={whole}")


def test_an_image_that_nothing_needs_is_taken_away_and_no_other(
    host: Host, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in host.docker.environment.items():
        monkeypatch.setenv(name, value)
    base = host.docker("image", "inspect", "--format={{.Id}}", "base:test").removeprefix("sha256:")
    for name in (f"spark-speech:{base}", "spark-speech:build-older"):
        host.docker("tag", f"sha256:{base}", name)
    (host.images / base / "compose").mkdir(parents=True)
    used = Content("f" * 64, digest, "settings")
    state = HostState("blue", {"blue": used, "green": None}, used)
    layout = Layout(host.folder / "home")
    before = host.docker("image", "ls", "--quiet", "--no-trunc", f"spark-speech:{digest}")
    assert releases.prune(layout, state, 1, check=True)["images"] == [base]
    assert releases.prune(layout, state, 1, check=False)["changed"] is True
    assert not (host.images / base).exists()
    named = host.docker("image", "ls", "--format={{.Repository}}:{{.Tag}}", "--no-trunc").split()
    assert "base:test" in named, "somebody else's name of it"
    assert not {f"spark-speech:{base}", "spark-speech:build-older"} & set(named)
    assert host.docker("image", "ls", "--quiet", "--no-trunc", f"spark-speech:{digest}") == before
    assert (host.images / digest / "compose").is_dir()
    assert releases.prune(layout, state, 1, check=False)["changed"] is False


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"spark_speech_base_image": "nvcr.io/nvidia/tritonserver:25.11-py3"}, "has no digest"),
        ({"spark_speech_wheel": ""}, "no image to run"),
    ],
)
def test_what_could_be_another_image_tomorrow_is_refused(
    host: Host, given: dict[str, str], reason: str
) -> None:
    assert reason in " ".join(host.play(ok=False, **given)[2].split())
