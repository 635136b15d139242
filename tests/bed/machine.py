"""What the machine must have for a bed, and what every host is made of besides the machine's own root.

The hosts' root is the machine's root with folders of their own over it. sshd and sudo come from Debian's
packages, which are unpacked into one more layer and not installed: no server starts on the machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

PROGRAMS: Final = ("ip", "unshare", "nsenter", "setpriv", "pivot_root", "mount", "ssh", "ssh-keygen", "rsync")
SYSTEMD: Final = Path("/lib/systemd/systemd")
PACKAGES: Final = ("openssh-server", "sudo", "libwrap0", "libnsl2", "libtirpc3")
"""sshd and sudo, and the libraries of theirs that a small Debian lacks."""


class BedUnavailableError(Exception):
    """This machine cannot have throw-away hosts; the message is the reason to skip."""


def cgroup_root() -> Path:
    """Where the cgroup 2 hierarchy is mounted."""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if fields[2] == "cgroup2":
            return Path(fields[1])
    raise BedUnavailableError("no cgroup2 hierarchy is mounted")


def require() -> None:
    """Raise `BedUnavailableError` unless hosts can be made here."""
    if os.geteuid() != 0:
        raise BedUnavailableError("throw-away hosts need root: run the tests as root")
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise BedUnavailableError(f"these programs are missing: {', '.join(missing)} (run .ci/setup dev)")
    if not SYSTEMD.exists():
        raise BedUnavailableError("systemd is not installed (run .ci/setup dev)")
    trial = ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--fork", "true"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BedUnavailableError(f"namespaces cannot be made here: {done.stderr.strip()}")
    try:
        probe = cgroup_root() / f"spark-speech-bed-probe-{os.getpid()}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise BedUnavailableError(f"no cgroup can be made here: {error}") from error


def layer(cache: Path) -> Path:
    """A folder with sshd and sudo as they lie in a root, unpacked once into ``cache``."""
    folder = cache / "bed" / "layer"
    if folder.exists():
        return folder
    scratch = cache / "bed" / f"unpacking-{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "debs").mkdir(parents=True)
    try:
        _download(scratch / "debs")
        (scratch / "root").mkdir()
        for package in (scratch / "debs").glob("*.deb"):
            _unpack(package, scratch / "root")
        if not (scratch / "root/usr/sbin/sshd").exists():
            raise BedUnavailableError("the package openssh-server held no sshd")
        try:
            (scratch / "root").rename(folder)
        except OSError:
            if not folder.exists():  # else another run was first
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _download(folder: Path) -> None:
    for update in (False, True):  # the lists of packages may be old or not there at all
        if update:
            subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)
        done = subprocess.run(
            ["apt-get", "download", "-qq", *PACKAGES], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return
    raise BedUnavailableError(f"sshd's package cannot be had: {done.stderr.strip()}")


def _unpack(package: Path, root: Path) -> None:
    with subprocess.Popen(["dpkg", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as stream:
        command = ["tar", "--extract", "--preserve-permissions", "--show-transformed-names"]
        # Where /lib is a link to /usr/lib, a layer with a real /lib would hide the machine's.
        command += ["--transform", r"s,^\./lib/,./usr/lib/,"]
        command += ["--exclude=./usr/share", "--exclude=./lib/systemd", "--exclude=./usr/lib/systemd"]
        subprocess.run(command, cwd=root, stdin=stream.stdout, check=True)
    leftover = root / "lib"
    if leftover.is_dir():
        shutil.rmtree(leftover)
