"""What a systemd unit logged since it was last started by somebody, restarts by itself included."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Final

from orchestrator.errors import NotRunningError

_LIMIT_S: Final = 60.0


def since_start(unit: str) -> str:
    """The unit's log, messages alone.

    Raises:
        NotRunningError: there is no such unit or no journal, or neither may be read.
    """
    shown = _ask("systemctl", "show", "--property=InvocationID,NRestarts,LoadState", unit)
    facts = dict(line.partition("=")[::2] for line in shown.splitlines())
    if facts.get("LoadState") != "loaded" or not facts.get("InvocationID"):
        raise NotRunningError(f"there is no unit {unit} that runs", fix="see `systemctl list-units`.")
    log = _ask("journalctl", "--quiet", "--output=cat", f"_SYSTEMD_INVOCATION_ID={facts['InvocationID']}")
    restarts = facts.get("NRestarts", "0")
    # A server that came back by itself looks healthy; what it said before is under another invocation.
    return log if restarts == "0" else f"{log}\nERROR {unit} was restarted {restarts} times by systemd\n"


def _ask(*command: str) -> str:
    try:
        return _run(command).stdout
    except FileNotFoundError as error:
        raise NotRunningError(f"this machine has no {command[0]}", fix="give the log with --log.") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise NotRunningError(f"{command[0]} fails: {error}", fix="run it as a user who may.") from error


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S, check=True
    )
