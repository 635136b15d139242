"""One throw-away host: systemd as PID 1 over the machine's own root, sshd at an address of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.bed import identity
from tests.bed.network import Network, kill_cgroup

INIT: Final = Path(__file__).with_name("init.py")
READY_S: Final = 120


class BedError(Exception):
    """A host did not do what the test needs of it."""


@dataclass
class Host:
    """A host of a bed. Made by `tests.bed.Bed`.

    Attributes:
        name: its name, also in the inventory.
        index: which cable of the network it has, from 1.
        network: the network that it is in.
        layer: sshd and sudo as they lie in a root (`tests.bed.machine.layer`).
        bind: folders of the machine to show that the root's own file system does not hold.
        disks: folder -> megabytes, for disks of their own that can be filled; 0: as large as the machine's.
    """

    name: str
    index: int
    network: Network
    layer: Path
    bind: tuple[Path, ...] = ()
    disks: Mapping[str, int] = field(default_factory=dict)
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """Its address, which the machine and the other hosts reach."""
        return self.network.address(self.index)

    @property
    def folder(self) -> Path:
        """Where the machine keeps what the host writes."""
        return self.network.folder / self.name

    @property
    def key(self) -> Path:
        """The key that opens it, for root and for the user ``spark``, who may sudo."""
        return self.network.folder / "key"

    @property
    def known_hosts(self) -> Path:
        """Its host key and its neighbours', for ssh."""
        return self.network.folder / "known_hosts"

    @property
    def pid(self) -> int:
        """PID 1 of the host, as the machine numbers it."""
        if self._process is None or self._process.poll() is not None:
            raise BedError(f"{self.name} is not running; see {self.folder / 'console'}")
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        children = path.read_text(encoding="ascii").split()
        if not children:
            raise BedError(f"{self.name} has no PID 1; see {self.folder / 'console'}")
        return int(children[0])

    @property
    def running(self) -> bool:
        """Whether its PID 1 lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def written(self) -> Path:
        """The files that this host made or changed, on the machine's disk; its tmpfs are not among them."""
        return self.folder / "upper"

    def path(self, inside: str) -> Path:
        """A file of the running host, as the machine can open it; its tmpfs too."""
        return Path(f"/proc/{self.pid}/root") / inside.lstrip("/")

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Boot; call `wait` before using it. A host that was killed boots with the disk it had."""
        own = [f"own{path}" for path, megabytes in self.disks.items() if not megabytes]
        for name in ("upper", "work", "root", *own):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        identity.write(self.written, self.name, layer=self.layer, keys=self.network.folder)
        cgroup = self.network.cgroup / self.name
        cgroup.mkdir(parents=True, exist_ok=True)
        namespaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"]
        # The shell joins the cgroup first: the new cgroup namespace begins there. When this process dies,
        # however it dies, setpriv ends unshare, unshare ends PID 1, and PID 1's end is everything's end.
        join = f'echo $$ > {cgroup}/cgroup.procs && exec setpriv --pdeathsig KILL "$@"'
        command = ["sh", "-c", join, "sh", "unshare", *namespaces, sys.executable, str(INIT)]
        console = (self.folder / "console").open("w", encoding="utf-8")
        with console:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=console,
                text=True,
                start_new_session=True,
            )
        self._wait_for(self._has_network, "a network namespace of its own")
        self.network.plug(self.index, self._process.pid)
        plan = {
            "name": self.name,
            "root": str(self.folder / "root"),
            "upper": str(self.folder / "upper"),
            "work": str(self.folder / "work"),
            "bind": [str(path) for path in self.bind],
            "disks": dict(self.disks),
            "own": str(self.folder / "own"),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(plan) + "\n")
        self._process.stdin.close()

    def wait(self) -> None:
        """Wait until ssh answers and systemd has booted."""
        self._wait_for(lambda: self.ssh("true", check=False).returncode == 0, "ssh")
        self._wait_for(self._booted, "systemd to finish booting")

    def kill(self) -> None:
        """Pull the plug: every process ends at once, nothing is flushed or said."""
        if self._process is None:
            return
        with suppress(BedError):
            init = Path(f"/proc/{self.pid}")
            kill_cgroup(self.network.cgroup / self.name)
            end = time.monotonic() + 60
            while init.exists() and time.monotonic() < end:  # until the machine's own PID 1 has reaped it
                time.sleep(0.01)
        self._process.kill()
        self._process.wait()
        self._process = None

    # -- using it --------------------------------------------------------------------------------

    def ssh(
        self, *command: str, user: str = "root", check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command through ssh."""
        options = [
            f"UserKnownHostsFile={self.known_hosts}",
            "BatchMode=yes",
            "ConnectTimeout=30",
            "LogLevel=ERROR",
        ]
        arguments = [part for option in options for part in ("-o", option)]
        whole = ["ssh", "-F", "none", "-i", str(self.key), *arguments, f"{user}@{self.address}", *command]
        return self._run(whole, check=check, timeout=timeout)

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root, past ssh: this works while the cable is cut."""
        whole = ["nsenter", "--all", "--target", str(self.pid), "--", *command]
        return self._run(whole, check=check, timeout=timeout)

    def spawn(self, *command: str) -> subprocess.Popen[str]:
        """Start a program inside that runs until it, what is returned, or the host is ended."""
        # nsenter forks; what it starts must end with it.
        tied = ("setpriv", "--pdeathsig", "KILL", *command)
        whole = ["nsenter", "--all", "--target", str(self.pid), "--", *tied]
        return subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def occupy(self, port: int, address: str = "0.0.0.0") -> subprocess.Popen[str]:
        """Some other program listens on a port of the host; end it with ``terminate()``."""
        program = (
            f"import socket, time; s = socket.create_server(({address!r}, {port})); print('up', flush=True); "
            "time.sleep(100000)"
        )
        process = self.spawn("python3", "-c", program)
        assert process.stdout is not None
        if process.stdout.readline().strip() != "up":
            process.kill()
            process.wait()
            raise BedError(f"port {port} of {self.name} was in use already")
        return process

    def processes(self, pattern: str) -> list[int]:
        """Processes inside whose command line matches, as the host numbers them."""
        found = self.run("pgrep", "--full", pattern, check=False).stdout.split()
        return [int(number) for number in found]

    def fill(self, folder: str, leave_mb: int) -> Path:
        """Fill the disk of a folder (one of ``disks``) but for some megabytes; returns the file to unlink."""
        where = self.path(folder)
        free = shutil.disk_usage(where).free
        filler = where / ".filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free - leave_mb * 1_000_000))
        return filler

    def journal(self, unit: str = "*", lines: int = 60) -> str:
        """The last lines of the host's journal."""
        return self.run("journalctl", "--no-pager", "-n", str(lines), "-u", unit, check=False).stdout

    # -- the parts -------------------------------------------------------------------------------

    def _run(self, command: list[str], *, check: bool, timeout: float) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
        )
        if check and done.returncode != 0:
            what = " ".join(command[-4:])
            raise BedError(f"{self.name}: {what!r} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return done

    def _has_network(self) -> bool:
        assert self._process is not None
        mine = Path("/proc/self/ns/net").readlink()
        try:
            # `unshare` makes all namespaces at once and forks last: by then the network is its own.
            return Path(f"/proc/{self._process.pid}/ns/net").readlink() != mine and self.pid > 0
        except (BedError, OSError):
            return False

    def _booted(self) -> bool:
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in {"running", "degraded"}

    def _wait_for(self, happened: object, what: str) -> None:
        end = time.monotonic() + READY_S
        while not happened():  # type: ignore[operator]
            if self._process is None or self._process.poll() is not None or time.monotonic() > end:
                console = ""
                with suppress(OSError):
                    console = (self.folder / "console").read_text(encoding="utf-8", errors="replace")
                raise BedError(f"{self.name}: no {what} within {READY_S} s:\n{console[-3000:]}")
            time.sleep(0.05)
