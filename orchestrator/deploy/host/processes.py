"""A slot's processes: which they are, how much memory they take, and what the server's environment says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from orchestrator.deploy.host import shell
from orchestrator.deploy.host.layout import Layout
from orchestrator.deploy.host.units import UnitState
from orchestrator.errors import HostError

PROC: Final = Path("/proc")
CGROUPS: Final = Path("/sys/fs/cgroup")
SERVER: Final = "tritonserver"
KIB: Final = 1024


def mem_available_bytes(proc: Path = PROC) -> int:
    """``MemAvailable``: what may be used without swapping. On a GB10 the GPU's memory is this, too.

    Raises:
        HostError: the kernel does not tell.
    """
    try:
        for line in (proc / "meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * KIB
    except (OSError, ValueError, IndexError) as error:
        raise HostError(f"cannot read {proc}/meminfo: {error}") from error
    raise HostError(f"{proc}/meminfo has no MemAvailable")


def slot_pids(layout: Layout, slot: str, units: Iterable[UnitState]) -> set[int]:
    """The processes of a slot: those of its units, and those of its containers."""
    found = set()
    for unit in units:
        if unit.cgroup not in ("", "/"):
            found |= _cgroup_pids(CGROUPS / unit.cgroup.lstrip("/"))
        if unit.pid:
            found.add(unit.pid)
    if (layout.slot(slot) / "image").exists():
        for pid in _container_pids(f"spark-speech-{slot}"):
            found |= _cgroup_pids(_cgroup_of(pid)) | {pid}
    return found


def pss_bytes(pids: Iterable[int], proc: Path = PROC) -> int:
    """Memory of the processes, each shared page counted once among those that share it."""
    total = 0
    for pid in pids:
        try:
            for line in (proc / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * KIB
        except (OSError, ValueError, IndexError):  # it ended meanwhile
            continue
    return total


def server_pid(pids: Iterable[int], proc: Path = PROC) -> int | None:
    """The tritonserver among the processes; None where there is none."""
    for pid in sorted(pids):
        try:
            first = (proc / str(pid) / "cmdline").read_bytes().split(b"\0")[0]
        except OSError:
            continue
        if Path(first.decode("utf-8", "replace")).name == SERVER:
            return pid
    return None


def environment_of(pid: int, proc: Path = PROC) -> dict[str, str]:
    """The environment a process was started with.

    Raises:
        HostError: the process is gone, or belongs to somebody else.
    """
    try:
        raw = (proc / str(pid) / "environ").read_bytes()
    except OSError as error:
        raise HostError(
            f"cannot read the environment of process {pid}: {error.strerror}", fix="run as root"
        ) from error
    items = raw.decode("utf-8", "replace").split("\0")
    pairs = ((name, value) for name, found, value in (item.partition("=") for item in items) if found)
    return dict(pairs)


def _cgroup_pids(folder: Path) -> set[int]:
    found: set[int] = set()
    # Version 1 keeps systemd's groups in a hierarchy of their own.
    for root in (folder, CGROUPS / "systemd" / folder.relative_to(CGROUPS)):
        for file in root.rglob("cgroup.procs") if root.is_dir() else ():
            try:
                found |= {int(word) for word in file.read_text(encoding="ascii").split()}
            except (OSError, ValueError):
                continue
    return found


def _cgroup_of(pid: int) -> Path:
    try:
        lines = (PROC / str(pid) / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return CGROUPS / "gone"
    paths = [line.split(":", 2)[2] for line in lines if line.startswith("0::") or ":name=systemd:" in line]
    return CGROUPS / (paths[0].lstrip("/") if paths and paths[0] != "/" else "gone")


def _container_pids(project: str) -> list[int]:
    """The first process of each container of a compose project."""
    try:
        ids = shell.run(
            ["docker", "ps", "--quiet", "--filter", f"label=com.docker.compose.project={project}"]
        ).split()
        if not ids:
            return []
        return [int(pid) for pid in shell.run(["docker", "inspect", "--format={{.State.Pid}}", *ids]).split()]
    except (HostError, ValueError):
        return []
