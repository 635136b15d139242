"""What becomes PID 1 of a throw-away host: makes its root and its mounts, then becomes systemd.

Runs in new mount, PID, network, UTS, IPC and cgroup namespaces; reads its plan as one line of JSON from
standard input (`Plan`, as `tests.bed.host` writes it). Standard library only: it is run as a script.
All mounts are made in the host's own mount namespace, so they end with the host's last process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "fuse")
READ_ONLY = ("proc/sys", "proc/sysrq-trigger", "proc/irq", "proc/bus")
"""A host must not change the kernel settings of the machine that it shares."""


def mount(kind: str, target: Path, options: str = "", source: str | None = None) -> None:
    """Mount a file system of a kind, its folder made first."""
    target.mkdir(parents=True, exist_ok=True)
    with_options = ["-o", options] if options else []
    subprocess.run(["mount", "-t", kind, *with_options, source or kind, str(target)], check=True)


def bind(source: str, target: Path, *, read_only: bool = False) -> None:
    """Show a folder or file of the machine inside the host."""
    subprocess.run(["mount", "--bind", source, str(target)], check=True)
    if read_only:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(target)], check=True)


def devices(folder: Path) -> None:
    """The devices that every program expects, bound to the machine's."""
    mount("tmpfs", folder, "mode=755")
    for name in DEVICES:
        if Path("/dev", name).exists():
            (folder / name).touch()
            bind(f"/dev/{name}", folder / name)
    mount("devpts", folder / "pts", "newinstance,ptmxmode=0666,mode=620,gid=5")
    mount("tmpfs", folder / "shm", "mode=1777")
    for name, target in {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0"}.items():
        (folder / name).symlink_to(target)


def main() -> None:
    """Build the root, go into it, start systemd."""
    plan = json.loads(sys.stdin.readline())
    root = Path(plan["root"])
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    mount("overlay", root, f"lowerdir=/,upperdir={plan['upper']},workdir={plan['work']}")
    for path in plan["bind"]:
        (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        bind(path, root / path.lstrip("/"), read_only=True)
    mount("proc", root / "proc")
    mount("sysfs", root / "sys")
    mount("cgroup2", root / "sys/fs/cgroup")
    subprocess.run(["mount", "-o", "remount,bind,ro", str(root / "sys")], check=True)
    for name in READ_ONLY:
        if (root / name).exists():
            bind(str(root / name), root / name, read_only=True)
    devices(root / "dev")
    mount("tmpfs", root / "run", "mode=755")
    mount("tmpfs", root / "tmp", "mode=1777")
    for path, megabytes in plan["disks"].items():
        if megabytes:
            mount("tmpfs", root / path.lstrip("/"), f"mode=755,size={megabytes}m")
        else:
            (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
            bind(plan["own"] + path, root / path.lstrip("/"))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/proc/sys/kernel/hostname").write_text(plan["name"])
    os.chdir(root)
    (root / "run/machine").mkdir()
    subprocess.run(["pivot_root", ".", "run/machine"], check=True)
    os.chroot(".")
    subprocess.run(["umount", "--lazy", "/run/machine"], check=True)
    Path("/run/machine").rmdir()
    os.setsid()
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    os.execve(
        "/lib/systemd/systemd",
        ["systemd", "--system", "--unit=multi-user.target", "--show-status=false"],
        {"container": "bed", "PATH": path, "LANG": "C.UTF-8"},
    )


if __name__ == "__main__":
    main()
