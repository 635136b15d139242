"""Commands on a host over the connection its inventory describes: SSH, or none where it is this machine.

Ansible does what changes a host. Looking at one, at its status or its log, takes a single command, and comes
back in a fraction of the time when SSH runs it directly. The variables are Ansible's own:
https://docs.ansible.com/ansible/latest/collections/ansible/builtin/ssh_connection.html
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.deploy.inventory import Host
from orchestrator.deploy.replies import fix_for
from orchestrator.errors import HostUnreachableError

HOST_PROGRAM: Final = "/usr/local/lib/spark-speech/host.pyz"
SSH_FAILED: Final = 255
"""SSH's own exit code where there was no connection, or it was lost."""
_KEEP_ALIVE_S: Final = 5
_KEEP_ALIVES: Final = 3
_END_GRACE_S: Final = 2.0
_LINE_BYTES: Final = 1 << 24
"""The longest line of output that can be read; the journal's may be long."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command on a host printed, and its exit code."""

    rc: int
    stdout: str
    stderr: str


def command_on(host: Host, command: Sequence[str], *, connect_timeout_s: int) -> list[str]:
    """The argument vector that runs ``command`` on the host as root.

    The inventory's own SSH arguments come first: SSH takes the first value it is given for an option.

    Raises:
        HostUnreachableError: the inventory describes a connection that this cannot use.
    """
    as_root = _as_root(command, password=_text(host, "ansible_become_password") is not None)
    if _is_local(host):
        return ["sh", "-c", as_root]
    arguments = ["ssh"]
    for name in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
        arguments += shlex.split(_text(host, name) or "")
    port = _text(host, "ansible_port", "ansible_ssh_port")
    user = _text(host, "ansible_user", "ansible_ssh_user")
    key = _text(host, "ansible_private_key_file", "ansible_ssh_private_key_file")
    if key is not None:
        arguments += ["-i", key, "-o", "IdentitiesOnly=yes"]
    for option in (
        "BatchMode=yes",
        f"ConnectTimeout={connect_timeout_s}",
        f"ServerAliveInterval={_KEEP_ALIVE_S}",
        f"ServerAliveCountMax={_KEEP_ALIVES}",
        *((f"Port={port}",) if port is not None else ()),
        *((f"User={user}",) if user is not None else ()),
    ):
        arguments += ["-o", option]
    return [*arguments, "-T", "--", _text(host, "ansible_host", "ansible_ssh_host") or host.name, as_root]


def host_program(host: Host, *arguments: str) -> list[str]:
    """The host program's argument vector on the host."""
    python = _text(host, "ansible_python_interpreter") or "python3"
    if python.startswith("auto"):
        python = "python3"
    return [python, HOST_PROGRAM, "--home", host.home, *arguments]


async def ask(host: Host, command: Sequence[str], *, timeout_s: float, connect_timeout_s: int) -> Answer:
    """Run a command on the host as root and wait for its end.

    Raises:
        HostUnreachableError: no connection, or no answer within ``timeout_s``; nothing of it stays here.
    """
    process = await start(host, command, connect_timeout_s=connect_timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await process.communicate()
    except TimeoutError as error:
        raise HostUnreachableError(
            f"no answer within {timeout_s:g} s",
            host=host.name,
            fix="check that the host is up; deploy.status_timeout_s sets how long it may take",
        ) from error
    finally:
        await end(process)
    answer = Answer(process.returncode or 0, _decoded(stdout), _decoded(stderr))
    if answer.rc == SSH_FAILED and not _is_local(host):
        raise unreachable(host, answer.stderr)
    return answer


async def start(host: Host, command: Sequence[str], *, connect_timeout_s: int) -> asyncio.subprocess.Process:
    """Start a command on the host as root; its output can be read as it comes.

    Raises:
        HostUnreachableError: there is no SSH here, or no connection that this can use.
    """
    arguments = command_on(host, command, connect_timeout_s=connect_timeout_s)
    password = _text(host, "ansible_become_password")
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL if password is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
            start_new_session=True,  # a terminal's Ctrl-C is for this process to handle
        )
    except OSError as error:
        raise HostUnreachableError(
            f"cannot start {arguments[0]}: {error.strerror}", host=host.name, fix="install OpenSSH's client"
        ) from error
    if process.stdin is not None:
        process.stdin.write(f"{password}\n".encode())
        process.stdin.close()
    return process


async def end(process: asyncio.subprocess.Process) -> None:
    """End a command here; on a host, it ends when it next writes."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_END_GRACE_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def unreachable(host: Host, printed: str) -> HostUnreachableError:
    """The error for what SSH printed."""
    lines = [line for line in printed.strip().splitlines() if not line.startswith("Warning:")]
    reason = lines[-1].strip() if lines else "the connection failed"
    return HostUnreachableError(
        reason, host=host.name, fix=fix_for(printed) or "check the connection: ssh HOST true"
    )


def _as_root(command: Sequence[str], *, password: bool) -> str:
    """A line for the host's shell; sudo only where the user is not root already."""
    line = shlex.join(command)
    sudo = "sudo -S -p ''" if password else "sudo -n"
    return f'if [ "$(id -u)" = 0 ]; then exec {line}; else exec {sudo} -- {line}; fi'


def _is_local(host: Host) -> bool:
    connection = _text(host, "ansible_connection") or ("local" if host.name == "localhost" else "ssh")
    if connection.rpartition(".")[2] in ("local", "ssh", "smart", "paramiko"):
        return connection.rpartition(".")[2] == "local"
    raise HostUnreachableError(
        f"ansible_connection is {connection!r}", host=host.name, fix="use ssh, or local for this machine"
    )


def _text(host: Host, *names: str) -> str | None:
    """The first of the variables that is set, as text.

    Raises:
        HostUnreachableError: it is a template, or closed in a vault, which only Ansible can resolve.
    """
    for name in names:
        value: Any = host.variables.get(name)
        if value is None or value == "":
            continue
        if isinstance(value, dict) or "{{" in str(value):
            raise HostUnreachableError(
                f"{name} is {'encrypted' if isinstance(value, dict) else 'a template'}",
                host=host.name,
                fix="give the vault's password file; connection variables must be plain values here",
            )
        return str(value)
    return None


def _decoded(output: bytes) -> str:
    return output.decode("utf-8", errors="replace")
