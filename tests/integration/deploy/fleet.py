"""Hosts, a controller and its releases: `spark-speech deploy` as an operator types it, against a bed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from orchestrator.client import SpeechClient
from tests.bed import Bed, Host
from tests.integration.deploy.load import DIALOGUE
from tests.integration.deploy.releases import Releases

PROGRAM: Final = Path(sys.executable).with_name("spark-speech")
HOME: Final = "/var/lib/spark-speech"
DEAF: Final = """

_run = run


def run(jobs, compute, context):
    _run(jobs, lambda audio, *rest: compute([one * 0 for one in audio], *rest), context)
"""
ROLLOUT_S: Final = 1500
"""Far more than any roll-out takes here: only a broken one comes near it."""


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    rc: int
    data: dict[str, Any]
    stdout: str
    stderr: str
    seconds: float

    @property
    def text(self) -> str:
        """What matters of it, for messages."""
        said = json.dumps({**self.data, "hosts": "..."}, indent=1) if self.data else self.stdout
        return f"exit code {self.rc} after {self.seconds:.1f} s\n{self.stderr[-4000:]}\n{said[-8000:]}"


@dataclass
class Fleet:
    """A bed with a controller.

    Attributes:
        bed: the hosts.
        folder: the controller's own: settings, inventory.
        releases: what it can roll out.
        environment: the Python environment that the hosts run.
        triton: the hosts' tritonservers.
        variables: of the inventory.
    """

    bed: Bed
    folder: Path
    releases: Releases
    environment: Path
    triton: Path
    variables: dict[str, Any] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.write()

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The hosts."""
        return self.bed.hosts

    @property
    def addresses(self) -> list[str]:
        """Where the services of the hosts are."""
        return [host.address for host in self.hosts]

    def write(self, *, user: str = "root", **variables: Any) -> None:
        """Write the inventory and the settings; ``variables`` over those of the fleet."""
        given = {
            "spark_speech_runtime": "systemd",
            "spark_speech_listen": "0.0.0.0",
            "spark_speech_environment_source": str(self.environment),
            "spark_speech_triton_source": str(self.triton),
            "spark_speech_memory_floor_mib": 256,
            "spark_speech_drain_s": 20,
            "spark_speech_confirm_s": 300,
            **self.variables,
            **variables,
        }
        inventory = self.bed.inventory(self.folder, user=user, **given)
        settings = f'[paths]\nhome = "{self.releases.home}"\n[deploy]\ninventory = "{inventory}"\n'
        (self.folder / "spark-speech.toml").write_text(settings, encoding="utf-8")

    @contextmanager
    def deafened(self, host: Host) -> Iterator[None]:
        """On this host alone, what is started from now on hears only silence: its environment is damaged."""
        where = (
            next((self.environment / "lib").glob("python*")) / "site-packages/orchestrator/backend/jobs.py"
        )
        damaged = host.path(str(where))
        whole = damaged.read_text(encoding="utf-8")
        damaged.write_text(whole + DEAF, encoding="utf-8")
        try:
            yield
        finally:
            damaged.write_text(whole, encoding="utf-8")

    @contextmanager
    def hidden_home(self) -> Iterator[None]:
        """The controller has lost its releases."""
        folder = self.releases.home / "releases"
        away = folder.with_name("hidden")
        folder.rename(away)
        try:
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            away.rename(folder)

    def copied_home(self, folder: Path) -> Path:
        """Another controller's home, with the same releases."""
        home = folder / "home"
        shutil.copytree(self.releases.home / "releases", home / "releases", symlinks=True)
        return home

    # -- commands ---------------------------------------------------------------------------------

    def command(self, *arguments: str) -> list[str]:
        """`spark-speech` with this controller's settings."""
        return [str(PROGRAM), "--config", str(self.folder / "spark-speech.toml"), *arguments]

    def spawn(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        return subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**os.environ, **self.environ},
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str], timeout: float = ROLLOUT_S) -> Answer:
        """What a started command said."""
        began = time.monotonic()
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            raise AssertionError(f"not done in {timeout} s\n{stdout[-3000:]}\n{stderr[-3000:]}") from None
        try:
            data = json.loads(stdout)
        except ValueError:
            data = {}
        return Answer(process.returncode, data, stdout, stderr, time.monotonic() - began)

    def run(self, *arguments: str, rc: int | None = 0) -> Answer:
        """Run a command with ``--json``."""
        answer = self.finish(self.spawn(*arguments, "--json"))
        assert rc is None or answer.rc == rc, f"{' '.join(arguments)}: {answer.text}"
        return answer

    def deploy(self, release: str, *arguments: str, rc: int | None = 0) -> Answer:
        """Roll a release out."""
        return self.run("deploy", release, *arguments, rc=rc)

    def rollback(self, *arguments: str, rc: int | None = 0) -> Answer:
        """Go back to an earlier release."""
        return self.run("rollback", *arguments, rc=rc)

    # -- what is so on a host ---------------------------------------------------------------------

    def state(self, host: Host) -> dict[str, Any]:
        """The host's own record; empty before the first deployment."""
        with suppress(OSError, ValueError):
            text = host.path(f"{HOME}/deploy/state.json").read_text(encoding="utf-8")
            found: dict[str, Any] = json.loads(text)
            return found
        return {}

    def phase(self, host: Host) -> str:
        """How far the host's last transaction is; empty where there was none."""
        return str((self.state(host).get("transaction") or {}).get("phase", ""))

    def serving(self, host: Host) -> str | None:
        """The release that the host's record says it serves."""
        state = self.state(host)
        active = state.get("active")
        return None if active is None else str(state["slots"][active]["release"])

    def seen(self, host: Host) -> set[str]:
        """The releases that a host has or ever had."""
        state = self.state(host)
        past = {str(entry["release"]) for entry in state.get("history", ())}
        return past | {path.name for path in host.path(f"{HOME}/releases").glob("*")}

    def ready(self, host: Host) -> bool:
        """Whether the gateway finds its models, and the front does: one that just started assumes it."""
        asked = (":9000/v1/health/ready", ":8001/front/ready")
        try:
            return all(httpx.get(f"http://{host.address}{each}", timeout=2).is_success for each in asked)
        except httpx.HTTPError:
            return False

    def running(self, host: Host) -> list[str]:
        """The releases that tritonservers on the host really run, from their command lines."""
        found = host.run(
            "pgrep", "--full", "--list-full", "tritonserver.*--model-repository", check=False
        ).stdout
        return sorted(set(re.findall(r"releases/([0-9a-f]{64})", found)))

    def pids(self, host: Host) -> dict[str, str]:
        """Main PIDs of the services that run: what is the same was not restarted."""
        show = ("systemctl", "show", "--property=Id,MainPID", "spark-speech-*")
        lines = host.run(*show).stdout.split("\n\n")
        pairs = [dict(line.split("=", 1) for line in block.splitlines() if line) for block in lines]
        return {pair["Id"]: pair["MainPID"] for pair in pairs if pair and pair.get("MainPID", "0") != "0"}

    def heard(self, host: Host) -> str:
        """What the host's service makes of the known recording."""
        with SpeechClient(f"{host.address}:8001") as client:
            return client.transcribe(DIALOGUE, diarize=False, engine="parakeet").text

    def until(self, happened: Callable[[], object], what: str, timeout: float = 120) -> None:
        """Wait, looking often: what is waited for may last for a moment only."""
        end = time.monotonic() + timeout
        while not happened():
            assert time.monotonic() < end, f"{what} did not happen within {timeout:g} s\n{self.journal()}"
            time.sleep(0.02)

    def journal(self) -> str:
        """The ends of the hosts' journals."""
        return "\n".join(
            f"== {host.name}\n{host.journal('spark-speech-*')}" for host in self.hosts if host.running
        )

    def assert_serves(
        self, release: str, hosts: tuple[Host, ...] = (), *, out_of_reach: Host | None = None
    ) -> None:
        """Hosts say they serve the release, run it and nothing else, and hear what is said.

        One that was ``out_of_reach`` on the way back may keep the lock, which the next run takes over.
        """
        for host in hosts or self.hosts:
            assert self.serving(host) == release, f"{host.name}: {self.state(host)}"
            assert self.running(host) == [release], f"{host.name} runs something else"
            assert self.phase(host) in {"committed", "reverted"}
            if host is not out_of_reach:
                assert not host.path(f"{HOME}/deploy/lock.json").exists(), f"{host.name} is locked"
            assert len(self.heard(host).split()) > 20, f"{host.name} hears nothing"


def rows(answer: Answer) -> dict[str, dict[str, Any]]:
    """What a roll-out reports of each host."""
    hosts = answer.data["hosts"]
    return dict(hosts)
