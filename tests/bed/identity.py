"""What makes a host one of its own: name, keys, users, sshd; none of what its machine runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

USER: Final = "spark"
"""Besides root: opens with the same key and may sudo without a password."""
_ID: Final = 7001
_HIDDEN: Final = (
    "/var/lib/spark-speech",
    "/var/log/journal",
    "/etc/spark-speech",
    "/usr/local/lib/spark-speech",
    str(Path("~root").expanduser() / ".ansible"),
)
"""What this machine itself has deployed or logged does not show through."""
_SSHD: Final = """\
HostKey /etc/ssh/ssh_host_ed25519_key
AuthenticationMethods publickey
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
PidFile none
MaxStartups 100
Subsystem sftp internal-sftp
"""
_UNIT: Final = """\
[Unit]
Description=sshd of a throw-away host
[Service]
RuntimeDirectory=sshd
ExecStart=/usr/sbin/sshd -D -e -f /etc/ssh/sshd_bed
# What somebody started through ssh outlives sshd itself, as on a real host.
KillMode=process
Restart=always
[Install]
WantedBy=multi-user.target
"""


def write(upper: Path, name: str, *, layer: Path, keys: Path) -> None:
    """Fill the layer of a new host; one that has booted before is left alone.

    Args:
        upper: what the host writes.
        name: its host name.
        layer: sshd and sudo as they lie in a root (`tests.bed.machine.layer`).
        keys: a folder with ``key.pub``, which opens the host, and ``host_key``.
    """
    etc = upper / "etc"
    if (etc / "hostname").exists():
        return
    # Copied, not stacked: overlayfs takes no layer that lies inside another one.
    subprocess.run(["cp", "-a", f"{layer}/.", str(upper)], check=True)
    (etc / "ssh").mkdir(parents=True, exist_ok=True)
    (etc / "machine-id").write_text("", encoding="ascii")
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n", encoding="ascii")
    (etc / "ssh/sshd_bed").write_text(_SSHD, encoding="ascii")
    shutil.copy(keys / "host_key", etc / "ssh/ssh_host_ed25519_key")
    (etc / "ssh/ssh_host_ed25519_key").chmod(0o600)
    units = etc / "systemd/system"
    _opaque(units)
    (units / "bed-sshd.service").write_text(_UNIT, encoding="ascii")
    (units / "multi-user.target.wants").mkdir()
    (units / "multi-user.target.wants/bed-sshd.service").symlink_to("../bed-sshd.service")
    _users(upper, (keys / "key.pub").read_text(encoding="ascii"))
    for hidden in _HIDDEN:
        _opaque(upper / hidden.lstrip("/"))
    (etc / "hostname").write_text(f"{name}\n", encoding="ascii")


def _users(upper: Path, public_key: str) -> None:
    etc = upper / "etc"
    for kept in ("passwd", "group", "shadow", "gshadow"):
        shutil.copy2(Path("/etc", kept), etc / kept)
    _append(etc / "passwd", "sshd:x:74:65534::/run/sshd:/usr/sbin/nologin")
    _append(etc / "passwd", f"{USER}:x:{_ID}:{_ID}::/home/{USER}:/bin/bash")
    _append(etc / "group", f"{USER}:x:{_ID}:")
    _append(etc / "shadow", f"{USER}:*:19000:0:99999:7:::")
    (etc / "sudoers.d").mkdir(mode=0o755, exist_ok=True)
    (etc / "sudoers.d/bed").write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n", encoding="ascii")
    (etc / "sudoers.d/bed").chmod(0o440)
    for home, owner in (("root", 0), (f"home/{USER}", _ID)):
        secret = upper / home / ".ssh"
        secret.parent.mkdir(parents=True, exist_ok=True)
        # Passable for everyone: the interpreter that services of another user run may lie below /root.
        secret.parent.chmod(0o711)
        _opaque(secret)
        # What this machine's root runs at each login (a version manager, say) would run with each command.
        for start in (".bashrc", ".bash_profile", ".profile"):
            (secret.parent / start).write_text("", encoding="ascii")
        (secret / "authorized_keys").write_text(public_key, encoding="ascii")
        secret.chmod(0o700)
        for path in (secret.parent, secret, secret / "authorized_keys"):
            os.chown(path, owner, owner)


def _opaque(folder: Path) -> None:
    """A folder of the upper layer that hides what the lower layer has at the same place."""
    folder.mkdir(parents=True, exist_ok=True)
    os.setxattr(folder, "trusted.overlay.opaque", b"y")


def _append(path: Path, line: str) -> None:
    text = path.read_text(encoding="utf-8")
    name = line.split(":")[0]
    if not any(existing.split(":")[0] == name for existing in text.splitlines()):
        path.write_text(f"{text.rstrip()}\n{line}\n", encoding="utf-8")
