"""The folder a run of Ansible works in: private, in memory where there is a place for it, gone with the run.

It holds the rendered configuration, the run's variables (never a secret) and what ansible-runner and Ansible
write: Ansible puts the content of a file that it is to copy there for a moment. A run that is killed cannot
delete it; the next run does, and tells by a lock, which the system lets go of when a process dies, whether
anybody still uses it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from orchestrator.repository.storage import storage_errors

_PREFIX: Final = "spark-speech-run-"
_MEMORY: Final = Path("/dev/shm")
_LOCK: Final = "lock"
_CONTROL: Final = "cp"
"""Sockets of shared SSH connections."""
_SOCKET_BYTES: Final = 107 - 28
"""What a socket's path may have, less the name that SSH gives it while it makes it."""
_END: Final = b"\0"
_EXIT_TIMEOUT_S: Final = 5.0
_ANSIBLE_CFG: Final = """\
[defaults]
forks = {forks}
timeout = {connect_timeout_s}
interpreter_python = auto_silent
retry_files_enabled = False
deprecation_warnings = False
localhost_warning = False
local_tmp = {folder}/tmp
nocows = True

[inventory]
unparsed_is_failed = True
any_unparsed_is_failed = True

[ssh_connection]
pipelining = True
control_path_dir = {control}
ssh_args = -o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=5 -o ServerAliveCountMax=3
"""
# What makes it quick (pipelining and shared connections save a connection and a file for each task) and what
# makes it notice a cut link within 15 s; nothing that changes what plays mean, for they also run without it.


@contextmanager
def workspace(*, forks: int, connect_timeout_s: int) -> Iterator[Path]:
    """A folder for one run with its ``ansible.cfg``, for this user alone; deleted when the block ends.

    Raises:
        DiskFullError, RepositoryError: it cannot be written.
    """
    parent = place()
    sweep(parent)
    with storage_errors(parent):
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))  # mode 0700
        fresh = folder / "lock.new"
        lock = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fresh.rename(folder / _LOCK)  # from here on a sweep looks at it, and finds it held
        with storage_errors(folder):
            for name in (_CONTROL, "tmp"):
                (folder / name).mkdir(mode=0o700)
            (folder / "ansible.cfg").write_text(
                _ANSIBLE_CFG.format(
                    forks=forks,
                    connect_timeout_s=connect_timeout_s,
                    folder=folder,
                    control=_control(folder),
                ),
                encoding="utf-8",
            )
        yield folder
    finally:
        _close_connections(folder)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def place() -> Path:
    """Where runs have their folders: shared memory, or else the temporary folder."""
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK | os.X_OK):
        return _MEMORY
    return Path(tempfile.gettempdir())


def sweep(parent: Path) -> list[Path]:
    """Delete this user's folders in ``parent`` that no run uses any more; returns them."""
    swept = []
    for folder in sorted(parent.glob(f"{_PREFIX}*")):
        with suppress(OSError):  # another run's sweep came first, or it is not ours
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _close_connections(folder)
                shutil.rmtree(folder, ignore_errors=True)
                swept.append(folder)
            finally:
                os.close(lock)
    return swept


@contextmanager
def unwritten(path: Path) -> Iterator[None]:
    """Make what is written to ``path`` within the block go nowhere.

    ansible-runner writes the whole environment, secrets and all, to a file and has no switch against it. It
    gets a pipe in the file's place, which is read and forgotten.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path, 0o600)
    # Both ends: a reader lets the writer open it at once, and an own writer keeps reads from ending early.
    pipe = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def drain() -> None:
        while not os.read(pipe, 65_536).endswith(_END):
            pass

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    try:
        yield
    finally:
        os.write(pipe, _END)
        reader.join(_EXIT_TIMEOUT_S)
        os.close(pipe)


def _control(folder: Path) -> str:
    """Where the sockets are: beside everything else, unless their paths would be too long."""
    own = str(folder / _CONTROL)
    return own if len(os.fsencode(own)) <= _SOCKET_BYTES else "~/.ansible/cp"


def _close_connections(folder: Path) -> None:
    """End the shared SSH connections, which would stay for a minute."""
    control = folder / _CONTROL
    for socket in control.iterdir() if control.is_dir() else ():
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "any"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_EXIT_TIMEOUT_S,
                check=False,
            )
