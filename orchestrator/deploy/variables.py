"""Connection variables that only Ansible can resolve: templates, and values closed in its vault."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from orchestrator.deploy.runner import ansible_program

CONNECTION: Final = (
    "ansible_become_password",
    "ansible_connection",
    "ansible_host",
    "ansible_port",
    "ansible_private_key_file",
    "ansible_python_interpreter",
    "ansible_ssh_common_args",
    "ansible_ssh_extra_args",
    "ansible_ssh_host",
    "ansible_ssh_port",
    "ansible_ssh_private_key_file",
    "ansible_ssh_user",
    "ansible_user",
    "spark_speech_home",
)
"""What a command on a host is made of."""
_ANSWER: Final = re.compile(r'^(\S+) \| SUCCESS => \{\s*"msg": "([A-Za-z0-9+/=]*)"\s*\}', re.MULTILINE)


def unresolved(variables: Mapping[str, Any]) -> bool:
    """Whether one of the variables is a template or encrypted."""
    return any(
        isinstance(variables.get(name), dict) or "{{" in str(variables.get(name)) for name in CONNECTION
    )


def resolve_command(path: Path, hosts: tuple[str, ...], vault_password_file: Path | None) -> list[str]:
    """The argument vector that prints the hosts' connection variables, resolved; it connects to nothing."""
    wanted = ", ".join(f"'{name}': {name} | default(none)" for name in CONNECTION)
    command = [ansible_program("ansible"), ",".join(hosts), "--inventory", str(path)]
    if vault_password_file is not None:
        command += ["--vault-password-file", str(vault_password_file)]
    message = f"msg={{{{ {{{wanted}}} | to_json | b64encode }}}}"
    return [*command, "--module-name", "ansible.builtin.debug", "--args", message]


def resolved(printed: str) -> dict[str, dict[str, Any]]:
    """What `resolve_command` printed: variables by host, for each host that could be resolved."""
    found: dict[str, dict[str, Any]] = {}
    for host, encoded in _ANSWER.findall(printed):
        try:
            values = json.loads(base64.b64decode(encoded))
        except (binascii.Error, ValueError):
            continue
        found[host] = {name: value for name, value in values.items() if value is not None}
    return found
