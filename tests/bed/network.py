"""The network of one bed: a bridge on the machine, a cable to each host, addresses nobody else uses.

The bridge's creation is what claims the subnet: of two beds at once, the kernel lets one make ``ssbed7``.
A file lock beside it tells whether the claimant lives: it is gone with its process, however that ended.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from tests.bed.machine import BedUnavailableError, cgroup_root

LOCKS: Final = Path("/run/spark-speech-bed")
FOLDERS: Final = Path(os.environ.get("SPARK_SPEECH_BED", "/var/tmp/spark-speech-bed"))
"""What hosts write goes here; not on an overlay, which cannot lie over another."""
SUBNETS: Final = 200


def ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run iproute2's ``ip``."""
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=check)


@dataclass
class Network:
    """Bridge ``ssbed<number>`` with 10.213.<number>.1/24; host i (from 1) has .10+i.

    Attributes:
        number: which of the subnets this is.
    """

    number: int
    _lock: IO[str] = field(repr=False)

    @property
    def bridge(self) -> str:
        """The bridge's name."""
        return f"ssbed{self.number}"

    @property
    def gateway(self) -> str:
        """The machine's own address in this network."""
        return f"10.213.{self.number}.1"

    @property
    def folder(self) -> Path:
        """A folder for what belongs to this bed."""
        return FOLDERS / str(self.number)

    @property
    def cgroup(self) -> Path:
        """The cgroup above those of the hosts."""
        return cgroup_root() / self.bridge

    def address(self, index: int) -> str:
        """The address of host ``index``."""
        return f"10.213.{self.number}.{10 + index}"

    def cable(self, index: int) -> str:
        """The machine's end of the cable to host ``index``."""
        return f"{self.bridge}h{index}"

    def plug(self, index: int, pid: int) -> None:
        """Give the network namespace of a process its ``eth0``."""
        cable = self.cable(index)
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        ip("link", "set", cable, "master", self.bridge, "up")
        inside = ("nsenter", "--net", "--target", str(pid), "ip")
        for command in (
            ("addr", "add", f"{self.address(index)}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("route", "add", "default", "via", self.gateway),
        ):
            subprocess.run([*inside, *command], check=True, capture_output=True)

    def cut(self, index: int) -> None:
        """Pull the cable: both ends lose their carrier, open connections hang."""
        ip("link", "set", self.cable(index), "down")

    def mend(self, index: int) -> None:
        """Plug the cable in again."""
        ip("link", "set", self.cable(index), "up")

    def remove(self) -> None:
        """Remove bridge, cables, hosts' processes and cgroups; repeated calls do nothing."""
        _remove(self.number)
        with suppress(OSError):
            (LOCKS / str(self.number)).unlink()
        self._lock.close()


def claim() -> Network:
    """A network of one's own."""
    LOCKS.mkdir(parents=True, exist_ok=True)
    for number in range(SUBNETS):
        lock = _locked(number)
        if lock is None:
            continue
        _remove(number)  # what a killed run left
        made = ip("link", "add", f"ssbed{number}", "type", "bridge", check=False)
        if made.returncode != 0:
            lock.close()
            raise BedUnavailableError(f"no bridge can be made: {made.stderr.strip()}")
        network = Network(number, lock)
        ip("addr", "add", f"{network.gateway}/24", "dev", network.bridge)
        ip("link", "set", network.bridge, "up")
        network.folder.mkdir(parents=True)
        return network
    raise BedUnavailableError(f"all {SUBNETS} subnets are in use")


def sweep() -> Iterator[int]:
    """Remove what killed runs left; yields the numbers of their networks."""
    for entry in sorted(LOCKS.iterdir()) if LOCKS.is_dir() else ():
        if entry.name.isdigit() and (lock := _locked(int(entry.name))) is not None:
            yield int(entry.name)
            _remove(int(entry.name))
            entry.unlink(missing_ok=True)
            lock.close()


def _locked(number: int) -> IO[str] | None:
    path = LOCKS / str(number)
    lock = path.open("a", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino != Path(f"/proc/self/fd/{lock.fileno()}").stat().st_ino:
            raise FileNotFoundError(path)  # its owner removed it between the two calls
    except OSError:
        lock.close()
        return None
    return lock


def _remove(number: int) -> None:
    bridge = f"ssbed{number}"
    root = cgroup_root() / bridge
    if root.is_dir():
        kill_cgroup(root)
    links = ip("-oneline", "link", "show", check=False).stdout.splitlines()
    names = [line.split(": ")[1].split("@")[0] for line in links]
    for name in names:
        if name.startswith(f"{bridge}h"):
            ip("link", "delete", name, check=False)
    if bridge in names:
        ip("link", "delete", bridge, check=False)
    shutil.rmtree(FOLDERS / str(number), ignore_errors=True)


def kill_cgroup(root: Path) -> None:
    """End every process of a cgroup and of those below it, and remove them."""
    end = time.monotonic() + 60
    while root.is_dir() and time.monotonic() < end:
        with suppress(OSError):
            (root / "cgroup.kill").write_text("1", encoding="utf-8")
        for folder in sorted(root.glob("**/"), key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):
                folder.rmdir()
        time.sleep(0.02)
