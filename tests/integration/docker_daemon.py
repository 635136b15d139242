"""A Docker daemon of its own: another data folder, another socket, no bridge, no packet filter."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

START_S = 180
STOP_S = 120


def missing() -> str | None:
    """Why no daemon can run here, or None where one can."""
    if os.getuid() != 0:
        return "a Docker daemon needs root"
    absent = [name for name in ("dockerd", "docker", "docker-compose") if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: apt-get install docker.io docker-compose)"
    if not Path("/sys/fs/cgroup").is_mount():
        return "there are no control groups"
    return None


@dataclass(frozen=True)
class Docker:
    """A running daemon."""

    folder: Path
    environment: Mapping[str, str] = field(repr=False)

    def run(
        self, *command: str, cwd: Path | None = None, timeout_s: float = 120, check: bool = True, **more: str
    ) -> str:
        """Run a program that talks to the daemon, with ``more`` as environment; what it printed."""
        done = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env={**self.environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0 or not check, f"{' '.join(command)}\n{done.stdout[-4000:]}"
        return done.stdout

    def __call__(self, *arguments: str) -> str:
        """Run ``docker``; what it printed, without white space around it."""
        return self.run("docker", *arguments).strip()

    def import_root(self, root: Path, name: str) -> None:
        """Make an image of a folder; the folder is the image's root."""
        archive = subprocess.Popen(
            ["tar", "-C", str(root), "--owner=0", "--group=0", "-c", "."], stdout=subprocess.PIPE
        )
        imported = ["docker", "import", "-c", "ENV PATH=/usr/local/bin:/usr/bin", "-", name]
        subprocess.run(imported, stdin=archive.stdout, env=self.environment, check=True, capture_output=True)
        assert archive.wait() == 0


@contextmanager
def daemon(folder: Path) -> Iterator[Docker]:
    """Start one with everything it keeps in ``folder``, and take every trace of it away afterwards."""
    socket = folder / "docker.sock"
    (folder / "daemon.json").write_text("{}")  # the machine's own settings are not meant for it
    # Told to end, it ends its containers; and it is told so when the test run dies, however that happens.
    command = [
        "setpriv",
        "--pdeathsig=TERM",
        "dockerd",
        "--iptables=false",
        "--ip6tables=false",
        "--bridge=none",
    ]
    command += [f"--config-file={folder / 'daemon.json'}", f"--data-root={folder / 'data'}"]
    command += [f"--exec-root={folder / 'exec'}", f"--pidfile={folder / 'pid'}", f"--host=unix://{socket}"]
    log = folder / "dockerd.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    base = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "COMPOSE_"))}
    docker = Docker(folder, {**base, "DOCKER_HOST": f"unix://{socket}", "DOCKER_BUILDKIT": "0"})
    try:
        deadline = time.monotonic() + START_S
        while subprocess.run(["docker", "info"], env=docker.environment, capture_output=True).returncode != 0:
            assert process.poll() is None, f"dockerd ended:\n{log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"dockerd is not ready:\n{log.read_text()[-3000:]}"
            time.sleep(0.2)
        yield docker
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for mount in mounts_below(folder):
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def mounts_below(folder: Path) -> list[str]:
    """Where something is mounted in ``folder``, the innermost first."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return sorted((point for point in points if Path(point).is_relative_to(folder)), reverse=True)
