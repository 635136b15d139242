"""The real Dockerfile and compose file, built and started by a real Docker: a transcript comes through.

Only the base image is not the real one, which would have to be downloaded: see `docker_base`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from orchestrator import resources
from orchestrator.coldstart.cuda_cache import policy_violations
from tests.integration import docker_base
from tests.integration.docker_daemon import Docker, daemon, missing, mounts_below

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.skipif(missing() is not None, reason=f"Docker cannot run here: {missing()}"),
]
CHECKOUT = Path(__file__).resolve().parents[2]
BASE = "spark-speech-base:test"
IMAGE = "spark-speech:test"
DISK_BYTES = 4 * 1024**3
"""What the daemon may keep: two images of some 1.3 GB."""


@dataclass(frozen=True)
class Stack:
    """One compose project."""

    docker: Docker
    folder: Path
    project: str
    variables: dict[str, str]

    def compose(self, *arguments: str, timeout_s: float = 120, check: bool = True) -> str:
        command = ("docker-compose", "-p", self.project, "-f", "compose.yaml", *arguments)
        return self.docker.run(
            *command, cwd=self.folder / "compose", timeout_s=timeout_s, check=check, **self.variables
        )

    def container(self, service: str) -> str:
        labels = {"project": self.project, "service": service}
        filters = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
        return self.docker("ps", "--all", "--quiet", *filters)

    def inspect(self, service: str) -> dict[str, Any]:
        return json.loads(self.docker("inspect", self.container(service)))[0]  # type: ignore[no-any-return]

    def main_process(self, service: str, name: str) -> psutil.Process:
        """The process called ``name`` of a service's container, as the host sees it."""
        first = psutil.Process(self.inspect(service)["State"]["Pid"])
        return next(each for each in [first, *first.children(recursive=True)] if each.name() == name)

    def port(self, name: str) -> int:
        return int(self.variables[f"SPARK_SPEECH_{name}_PORT"])


def variables(releases: Path, config: Path) -> dict[str, str]:
    """What a unit of a host would give: free ports, and limits that this machine allows."""
    import resource

    from orchestrator.runtime.ports import free_ports

    names = ("TRITON_HTTP", "TRITON_GRPC", "TRITON_METRICS", "GATEWAY", "RIVA")
    ports = {f"SPARK_SPEECH_{name}_PORT": str(port) for name, port in zip(names, free_ports(5), strict=True)}
    return ports | {
        "SPARK_SPEECH_IMAGE": IMAGE,
        "SPARK_SPEECH_BASE_IMAGE": BASE,
        "SPARK_SPEECH_RELEASES": str(releases),
        "SPARK_SPEECH_CONFIG": str(config),
        "SPARK_SPEECH_RESTART": "no",
        "SPARK_SPEECH_TRITON_MEMORY": "4g",
        "SPARK_SPEECH_SHM": "256m",
        "SPARK_SPEECH_GATEWAY_MEMORY": "1g",
        "SPARK_SPEECH_MEMLOCK": str(resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]),
        "SPARK_SPEECH_NOFILE": str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Readable by the container's user, up to the root."""
    folder = tmp_path_factory.mktemp("compose")
    for each in (folder, *folder.parents[:-1]):
        if each.stat().st_uid == os.getuid() and each != Path("/tmp"):
            each.chmod(each.stat().st_mode | 0o055)
    return folder


@pytest.fixture(scope="module")
def docker(folder: Path) -> Iterator[Docker]:
    kept = folder / "docker"
    kept.mkdir()
    with daemon(kept) as running:
        yield running
        held = sum(path.lstat().st_blocks * 512 for path in (kept / "data" / "overlay2").rglob("*"))
        assert held < DISK_BYTES
    assert mounts_below(folder) == []
    assert not kept.exists()


@pytest.fixture(scope="module")
def releases(folder: Path, make_home: Callable[[Path], Path]) -> Path:
    """The releases of a home with one of Moonshine alone, which needs neither a GPU nor torch."""
    from orchestrator.repository.builder import Builder
    from orchestrator.repository.plan import make_plan
    from orchestrator.repository.validate import machine

    home = make_home(folder / "home")
    target = "aarch64" if machine() == "aarch64" else "x86_64"
    plan = make_plan({"moonshine": "embedded"}, device="cpu", target=target)
    Builder(home=home, models=resources.model_repository()).build(plan)
    return home / "releases"


@pytest.fixture(scope="module")
def context(folder: Path) -> Path:
    """What the Dockerfile may see of a checkout, with a wheel of this one."""
    context = folder / "context"
    shutil.copytree(CHECKOUT / "compose", context / "compose", ignore=shutil.ignore_patterns(".env"))
    shutil.copy(CHECKOUT / ".dockerignore", context)
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(context / "dist"), str(CHECKOUT)]
    subprocess.run(build, check=True, capture_output=True)
    return context


@pytest.fixture(scope="module")
def blue(docker: Docker, folder: Path, context: Path, releases: Path, tritonserver: Any) -> Iterator[Stack]:
    """The stack, built and started; both services are healthy."""
    root = folder / "root"
    root.mkdir()
    docker_base.write(root, CHECKOUT, tritonserver.prefix)
    docker.import_root(root, BASE)
    shutil.rmtree(root)
    config = folder / "spark-speech.toml"
    config.write_text("[server]\nready_timeout_s = 120.0\n")
    stack = Stack(docker, context, "spark-speech-blue", variables(releases, config))
    try:
        stack.compose("build", "triton", timeout_s=400)
        start(stack)
        yield stack
    finally:
        stack.compose("down", "--volumes", timeout_s=200)
        assert docker("ps", "--all", "--quiet") == ""
        assert docker("volume", "ls", "--quiet") == ""


def start(stack: Stack) -> None:
    try:
        stack.compose("up", "--detach", "--no-build", "triton", "gateway", timeout_s=200)
        deadline = time.monotonic() + 240
        while stack.inspect("gateway")["State"]["Health"]["Status"] != "healthy":
            assert time.monotonic() < deadline, stack.inspect("gateway")["State"]["Health"]
            time.sleep(0.5)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{stack.compose('logs', '--tail=100', check=False)[-6000:]}") from None


@pytest.fixture(scope="module")
def sample() -> Path:
    """30 s of two people, from pyannote.audio's package."""
    found = importlib.util.find_spec("pyannote.audio")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "sample" / "sample.wav"


def transcript(stack: Stack, sample: Path) -> str:
    answer = httpx.post(
        f"http://127.0.0.1:{stack.port('GATEWAY')}/v1/audio/transcriptions",
        files={"file": sample.read_bytes()},
        data={"model": "auto"},
        timeout=300,
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["text"])


def test_a_transcript_comes_through(blue: Stack, sample: Path) -> None:
    import jiwer
    from whisper_normalizer.english import EnglishTextNormalizer

    lines = [line.split(maxsplit=5) for line in sample.with_suffix(".stm").read_text().splitlines()]
    said = " ".join(words for _, words in sorted((float(ln[3]), ln[5]) for ln in lines if ln[0][0] != ";"))
    plain = EnglishTextNormalizer()
    assert jiwer.wer(plain(said), plain(transcript(blue, sample))) < 0.4


def test_both_services_are_healthy_and_the_gateway_waited_for_triton(blue: Stack) -> None:
    states = {service: blue.inspect(service)["State"] for service in ("triton", "gateway")}
    assert {state["Health"]["Status"] for state in states.values()} == {"healthy"}
    assert states["triton"]["StartedAt"] < states["gateway"]["StartedAt"]


def test_the_cuda_policy_holds_in_the_running_server(blue: Stack) -> None:
    """As the kernel tells it, and as `doctor` in the container sees it."""
    environment = blue.main_process("triton", "tritonserver").environ()
    assert policy_violations(environment) == []
    for name in ("TRITON_PTXAS_PATH", "TRITON_PTXAS_BLACKWELL_PATH"):
        version = blue.docker("exec", blue.container("triton"), environment[name], "--version")
        assert int(version.partition("release ")[2].partition(".")[0]) >= 13
    cache = "/var/cache/spark-speech"
    mounted = {mount["Destination"] for mount in blue.inspect("triton")["Mounts"]}
    assert cache in mounted
    real = blue.docker(
        "exec", blue.container("triton"), "python", "-c",
        f"import os; print(os.path.realpath({environment['CUDA_CACHE_PATH']!r}))",
    )  # fmt: skip
    assert real.startswith(f"{cache}/")
    doctor = blue.docker.run(
        "docker", "exec", blue.container("triton"), "spark-speech", "doctor", "--json", check=False
    )
    checks = {check["name"]: check for check in json.loads(doctor[doctor.index("{") :])["checks"]}
    assert checks["cuda cache"]["level"] == "ok"
    assert "running server" in checks["cuda cache"]["message"]


@pytest.mark.parametrize(("service", "name"), [("triton", "tritonserver"), ("gateway", "spark-speech")])
def test_a_service_may_do_little(blue: Stack, service: str, name: str) -> None:
    """Seen from the kernel, not from the file."""
    process = blue.main_process(service, name)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
    )
    assert set(status["Uid"].split()) == {"10001"}
    assert set(status["Gid"].split()) == {"10001"}
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    places = ("/", "/opt/spark-speech", "/var/lib/spark-speech", "/etc")
    touched = [f"{place}/x" for place in places]
    command = ["docker", "exec", "--user=0", blue.container(service), "touch", *touched]
    refused = blue.docker.run(*command, check=False)
    assert refused.count("Read-only file system") == len(places), refused
    limits = blue.inspect(service)["HostConfig"]
    assert limits["Memory"] == limits["MemorySwap"] > 0
    assert limits["PidsLimit"] > 0
    assert limits["OomScoreAdj"] == 500


def test_everything_listens_on_loopback(blue: Stack) -> None:
    found = set()
    for service in ("triton", "gateway"):
        first = psutil.Process(blue.inspect(service)["State"]["Pid"])
        for process in [first, *first.children(recursive=True)]:
            found |= {
                (address.laddr.ip.removeprefix("::ffff:"), address.laddr.port)
                for address in process.net_connections("tcp")
                if address.status == psutil.CONN_LISTEN
            }
    ports = {int(port) for name, port in blue.variables.items() if name.endswith("_PORT")}
    assert found == {("127.0.0.1", port) for port in ports}


def test_the_image_holds_no_weights_and_no_secrets(blue: Stack) -> None:
    listing = blue.docker(
        "exec", blue.container("triton"), "find", "/opt", "/usr", "/etc", "-type", "f", "-size", "+512k"
    )
    assert [line for line in listing.splitlines() if Path(line).suffix in docker_base.WEIGHTS] == []
    assert "/opt/spark-speech/" in listing
    settings = json.loads(blue.docker("image", "inspect", IMAGE))[0]["Config"]
    assert settings["User"] == "10001:10001"
    assert not [line for line in settings["Env"] if "KEY" in line or "TOKEN" in line]


def test_the_servers_log_is_the_containers(blue: Stack) -> None:
    log = blue.compose("logs", "triton")
    assert "Started GRPCInferenceService" in log


def test_the_metrics_pages_have_what_the_dashboard_shows(blue: Stack) -> None:
    """`tests/compose` compares the dashboard with this list; here, the list with the page of the server."""
    page = httpx.get(f"http://127.0.0.1:{blue.port('TRITON_METRICS')}/metrics", timeout=60).text
    seen = {re.split(r"[{ ]", line)[0] for line in page.splitlines() if line[:1] != "#"}
    listed = (CHECKOUT / "tests/compose/triton_metrics.txt").read_text().splitlines()
    assert {line for line in listed if line[:1] != "#"} <= seen
    gateway = httpx.get(f"http://127.0.0.1:{blue.port('GATEWAY')}/metrics", timeout=60).text
    assert "spark_speech_gateway_real_time_factor_bucket" in gateway


def test_two_stacks_run_side_by_side(blue: Stack, sample: Path) -> None:
    """As blue and green of a host do: the same file, another project, other ports."""
    given = variables(
        Path(blue.variables["SPARK_SPEECH_RELEASES"]), Path(blue.variables["SPARK_SPEECH_CONFIG"])
    )
    green = Stack(blue.docker, blue.folder, "spark-speech-green", given)
    try:
        start(green)
        assert green.container("triton") != blue.container("triton")
        assert transcript(green, sample) == transcript(blue, sample)
    finally:
        green.compose("down", "--volumes", timeout_s=200)
    assert blue.inspect("triton")["State"]["Running"]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", green.port("TRITON_GRPC"))) != 0


def test_a_base_without_a_name_is_refused_with_a_reason(blue: Stack) -> None:
    nameless = Stack(blue.docker, blue.folder, "nameless", {**blue.variables, "SPARK_SPEECH_BASE_IMAGE": ""})
    answer = nameless.compose("build", "triton", check=False)
    assert "must be lowercase" in answer or "SPARK_SPEECH_BASE_IMAGE-is-empty" in answer


def test_it_stops_when_it_is_told_to(blue: Stack) -> None:
    """Last: an orderly end, not a kill after the time is up."""
    blue.compose("stop", timeout_s=150)
    assert {blue.inspect(service)["State"]["ExitCode"] for service in ("triton", "gateway")} <= {0, 143}
