"""Throw-away hosts on one machine: a root of their own, real systemd, real sshd, cables that can be pulled.

Every host has mount, PID, network, UTS, IPC and cgroup namespaces; its root is the machine's root under a
layer that takes what the host writes. All hosts of a bed hang on one bridge. Nothing outlives the process
that made them: its death, even by SIGKILL, ends the hosts, and the next bed removes the rest.

    with Bed(2, cache=folder) as bed:
        bed.hosts[0].ssh("systemctl", "is-system-running")
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.bed import machine, network
from tests.bed.host import Host

__all__ = ["Bed", "Host"]

_ROOT: Final = Path("/")


class Bed:
    """Some hosts on one bridge.

    Args:
        count: how many hosts: ``spark1`` and so on.
        cache: a folder that outlives the run, for the unpacked sshd.
        disks: folder -> megabytes: disks of their own on every host, to fill; `Host.kill` empties
            them. 0: a folder of the machine's disk, for what cannot lie on an overlay.
        visible: folders that the hosts must see though another file system than the root's holds them.

    Raises:
        BedUnavailableError: this machine cannot have hosts; the message says why.
    """

    def __init__(
        self,
        count: int,
        *,
        cache: Path,
        disks: Mapping[str, int] | None = None,
        visible: tuple[Path, ...] = (),
    ) -> None:
        machine.require()
        layer = machine.layer(cache)
        for _ in network.sweep():
            pass
        self.network = network.claim()
        try:
            self._keys(count)
            device = _ROOT.stat().st_dev
            bind = tuple(path.resolve() for path in visible if path.stat().st_dev != device)
            self.hosts = tuple(
                Host(f"spark{index}", index, self.network, layer, bind, disks or {})
                for index in range(1, count + 1)
            )
            self._sockets = self.network.folder / "ssh"
            self._sockets.mkdir()
        except BaseException:
            self.network.remove()
            raise

    def start(self) -> Self:
        """Boot all hosts and wait for them."""
        try:
            for host in self.hosts:
                host.start()
            for host in self.hosts:
                host.wait()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End all hosts and remove everything that the bed made."""
        for socket in self._sockets.glob("*"):  # connections that ssh keeps open for the next command
            subprocess.run(["ssh", "-S", str(socket), "-O", "exit", "bed"], capture_output=True, check=False)
        for host in self.hosts:
            host.kill()
        self.network.remove()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)

    def cut(self, host: Host) -> None:
        """Pull a host's cable."""
        self.network.cut(host.index)

    def mend(self, host: Host) -> None:
        """Plug a host's cable in again."""
        self.network.mend(host.index)

    def inventory(self, folder: Path, *, user: str = "root", **variables: Any) -> Path:
        """Write an Ansible inventory of the hosts, group ``sparks``, with variables for all of them."""
        common: dict[str, Any] = {
            "ansible_user": user,
            "ansible_ssh_private_key_file": str(self.network.folder / "key"),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.network.folder / 'known_hosts'} "
            "-o StrictHostKeyChecking=yes",
            "ansible_control_path_dir": str(self._sockets),
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        hosts = {host.name: {"ansible_host": host.address} for host in self.hosts}
        tree = {"all": {"vars": common | variables, "children": {"sparks": {"hosts": hosts}}}}
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "hosts.yml"
        path.write_text(json.dumps(tree, indent=1), encoding="utf-8")  # JSON is YAML
        return path

    def _keys(self, count: int) -> None:
        folder = self.network.folder
        for name in ("key", "host_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bed", "-f", str(folder / name)]
            subprocess.run(command, check=True)
        public = (folder / "host_key.pub").read_text(encoding="ascii")
        lines = [f"{self.network.address(index)} {public}" for index in range(1, count + 1)]
        (folder / "known_hosts").write_text("".join(lines), encoding="ascii")
