"""The hosts of a deployment: a plain Ansible inventory, read by ``ansible-inventory``."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from orchestrator.deploy import variables
from orchestrator.deploy.replies import fix_for
from orchestrator.deploy.runner import ansible_program
from orchestrator.errors import InventoryError

GROUP: Final = "sparks"
"""The group that serves; hosts of other groups (a load balancer) do not."""
_TIMEOUT_S: Final = 120.0
"""A dynamic inventory may ask a service on the network."""
_DEFAULT_HOME: Final = "/var/lib/spark-speech"


@dataclass(frozen=True, slots=True)
class Host:
    """One host of the inventory.

    Attributes:
        name: as the inventory has it.
        variables: its variables, those of its groups included; may hold secrets, so they are not shown.
    """

    name: str
    variables: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def home(self) -> str:
        """Where the service lives on it."""
        return str(self.variables.get("spark_speech_home", _DEFAULT_HOME))


@dataclass(frozen=True, slots=True)
class Inventory:
    """The hosts that serve, in the inventory's order."""

    path: Path
    hosts: tuple[Host, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The hosts' names."""
        return tuple(host.name for host in self.hosts)

    def host(self, name: str) -> Host:
        """The host of this name.

        Raises:
            InventoryError: there is none.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        raise InventoryError(
            f"{name!r} is no host of the inventory",
            path=self.path,
            fix=f"it has: {', '.join(self.names)}",
        )


def read(path: Path, *, limit: str | None = None, vault_password_file: Path | None = None) -> Inventory:
    """The inventory's hosts that serve, all or those that a host pattern names.

    Raises:
        InventoryError: no such file, one that Ansible cannot read, or no host.
        MissingDependencyError: Ansible is not installed.
    """
    if not path.exists():
        raise InventoryError(
            "there is no inventory",
            path=path,
            fix="name one with --inventory or deploy.inventory; docs/deploy.md has examples",
        )
    done = _run(list_command(path, limit=limit, vault_password_file=vault_password_file), path)
    if done.returncode != 0:
        raise _unreadable(path, done.stderr)
    try:
        listing = json.loads(done.stdout)
    except ValueError as error:
        raise InventoryError("ansible-inventory printed no JSON", path=path) from error
    hosts = hosts_of(listing)
    if not hosts:
        which = "no host" if limit is None else f"no host that {limit!r} names"
        raise InventoryError(
            f"the inventory has {which} in its group {GROUP!r}",
            path=path,
            fix=f"list the hosts that serve under the group {GROUP}; docs/deploy.md has examples",
        )
    return Inventory(path, _resolved(hosts, path, vault_password_file))


def list_command(path: Path, *, limit: str | None, vault_password_file: Path | None) -> list[str]:
    """The argument vector that prints the inventory as JSON."""
    command = [ansible_program("ansible-inventory"), "--inventory", str(path), "--list"]
    if limit is not None:
        command += ["--limit", limit]
    if vault_password_file is not None:
        command += ["--vault-password-file", str(vault_password_file)]
    return command


def hosts_of(listing: Mapping[str, Any]) -> tuple[Host, ...]:
    """The hosts that serve from what ``ansible-inventory --list`` printed, each once."""
    meta = listing.get("_meta")
    variables = meta.get("hostvars", {}) if isinstance(meta, Mapping) else {}
    return tuple(
        Host(name, _plain(variables.get(name, {}))) for name in dict.fromkeys(_members(listing, GROUP, ()))
    )


def _members(listing: Mapping[str, Any], group: str, above: Sequence[str]) -> list[str]:
    entry = listing.get(group)
    if not isinstance(entry, Mapping) or group in above:
        return []
    found = [str(name) for name in entry.get("hosts", ())]
    for child in entry.get("children", ()):
        found += _members(listing, str(child), (*above, group))
    return found


def _plain(value: Any) -> Any:
    """Without the wrapping of values that Ansible must not take for templates."""
    if isinstance(value, Mapping):
        if set(value) == {"__ansible_unsafe"}:
            return value["__ansible_unsafe"]
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _resolved(hosts: Sequence[Host], path: Path, vault_password_file: Path | None) -> tuple[Host, ...]:
    """The hosts with connection variables as plain values; what cannot be resolved stays as it is."""
    needing = tuple(host.name for host in hosts if variables.unresolved(host.variables))
    if not needing:
        return tuple(hosts)
    done = _run(variables.resolve_command(path, needing, vault_password_file), path)
    found = variables.resolved(done.stdout)
    return tuple(Host(host.name, {**host.variables, **found.get(host.name, {})}) for host in hosts)


def _run(command: list[str], path: Path) -> subprocess.CompletedProcess[str]:
    # A source that cannot be read is an error here, not a warning and an empty inventory.
    strict = {"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "True"}
    plain = {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_STDOUT_CALLBACK": "minimal"}
    try:
        return subprocess.run(
            command,
            env={**os.environ, **strict, **plain},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InventoryError(
            f"the inventory took longer than {_TIMEOUT_S:g} s", path=path, fix="check its plugins and scripts"
        ) from error
    except OSError as error:
        raise InventoryError(f"cannot start {command[0]}: {error.strerror}", path=path) from error


def _unreadable(path: Path, printed: str) -> InventoryError:
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("[ERROR]", "ERROR!"))] or lines[-1:]
    reason = (
        errors[0].removeprefix("[ERROR]:").removeprefix("ERROR!").strip() if errors else "no reason given"
    )
    return InventoryError(
        f"Ansible cannot read the inventory: {reason}",
        path=path,
        fix=fix_for(reason) or "correct it: ansible-inventory --list shows more",
    )
