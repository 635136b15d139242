"""Why a task failed and what to do about it, from what modules, programs and SSH say. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

_MAX_REASON: Final = 1500
"""Characters; a program's whole output is in its log, not in a message."""

_FIXES: Final = (
    (
        r"permission denied \(publickey|no more authentication methods",
        "add your key to the host (ssh-copy-id), or name it in the inventory: ansible_ssh_private_key_file",
    ),
    (
        r"host key verification failed|remote host identification has changed",
        "check the host's key; where it is right, put it into known_hosts: ssh-keygen -R HOST; ssh HOST",
    ),
    (
        r"could not resolve hostname|name or service not known",
        "correct ansible_host in the inventory",
    ),
    (
        r"connection refused",
        "check that sshd runs there, and ansible_port in the inventory",
    ),
    (
        r"timed out|no route to host|network is unreachable|connection (?:closed|reset)|broken pipe",
        "check that the host is up and the network reaches it: ssh HOST true",
    ),
    (
        r"missing sudo password|sudo: a password is required|incorrect sudo password",
        "let the user sudo without a password, or put ansible_become_password into the vault",
    ),
    (
        r"not in the sudoers|is not allowed to execute",
        "allow the user sudo on the host",
    ),
    (
        r"no space left on device|disk quota exceeded",
        "free space on the host; spark_speech_keep says how many old releases it keeps",
    ),
    (
        r"attempting to decrypt but no vault secrets|decryption failed",
        "name the vault's password file: deploy.vault_password_file or ANSIBLE_VAULT_PASSWORD_FILE",
    ),
    (
        r"python[0-9.]*: not found|no such file or directory.*python|module interpreter",
        "install python3 on the host, or set ansible_python_interpreter in the inventory",
    ),
    (
        r"is undefined",
        "set that variable in the inventory",
    ),
)
"""What a text that matches means for the reader; the first that fits counts."""
_PREFIXES: Final = re.compile(
    r"^(?:Task failed: |Action failed: |Module failed: |Finalization of task args for [^:]+ failed: )+"
)
_SPLIT_FIX: Final = re.compile(r"\s*(?:\bFix:)\s*")


def reason_of(result: Mapping[str, Any], *, unreachable: bool = False) -> tuple[str, str | None]:
    """The reason and the fix from a failed task's result.

    A program of this project says both itself, as JSON on its standard output. A message with ``Fix: ...``
    in it is taken apart. Otherwise the reason is the module's message with the last lines a program printed,
    and the fix is looked up by what is known to help.
    """
    item = _failed_item(result)
    if item.get("censored"):
        return "the task failed; its output is hidden because it holds secrets", None
    reply = reply_of(item.get("stdout"))
    if reply is not None and isinstance(reply.get("message"), str):
        fix = reply.get("fix")
        return reply["message"], fix if isinstance(fix, str) else None
    message = _PREFIXES.sub("", str(item.get("msg") or "").strip())
    parts = _SPLIT_FIX.split(message, maxsplit=1)
    if len(parts) == 2:
        return _shortened(parts[0]), parts[1].strip() or None
    if message in ("", "non-zero return code", "MODULE FAILURE") or message.startswith("MODULE FAILURE"):
        printed = _tail(item.get("stderr")) or _tail(item.get("module_stderr")) or _tail(item.get("stdout"))
        command = item.get("cmd")
        name = command if isinstance(command, str) else " ".join(str(word) for word in command or ())
        rc = f"exit code {item['rc']}" if "rc" in item else "it failed"
        message = f"{_shortened(name, 200) or 'the module'}: {rc}" + (f": {printed}" if printed else "")
    if unreachable and not message:
        message = "the host cannot be reached"
    return _shortened(message), fix_for(message)


def fix_for(text: str) -> str | None:
    """What is known to help against a message."""
    return next((fix for pattern, fix in _FIXES if re.search(pattern, text, re.IGNORECASE | re.DOTALL)), None)


def reply_of(output: object) -> Mapping[str, Any] | None:
    """The JSON object that a program of this project printed, None where the output is something else."""
    if not isinstance(output, str) or not output.lstrip().startswith("{"):
        return None
    try:
        reply = json.loads(output)
    except ValueError:
        return None
    return reply if isinstance(reply, dict) else None


def _failed_item(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """A loop's failed item, or the result itself."""
    results = result.get("results")
    if isinstance(results, list):
        for item in results:
            if isinstance(item, Mapping) and (item.get("failed") or item.get("unreachable")):
                return item
    return result


def _tail(output: object, lines: int = 5) -> str:
    if not isinstance(output, str):
        return ""
    return "\n".join(output.strip().splitlines()[-lines:])


def _shortened(text: str, limit: int = _MAX_REASON) -> str:
    return text if len(text) <= limit else f"{text[:limit]} ..."
