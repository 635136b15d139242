"""Running the machine's own programs."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Final

from orchestrator.errors import HostError

TIMEOUT_S: Final = 120.0


def run(command: Sequence[str], *, check: bool = True, timeout_s: float = TIMEOUT_S) -> str:
    """What ``command`` prints on standard output.

    Args:
        command: the argument vector.
        check: whether a failure is an error; otherwise its output is returned.
        timeout_s: how long it may take.

    Raises:
        HostError: it is not installed, failed, or took too long.
    """
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise HostError(f"{command[0]} is not installed", fix=f"install {command[0]} on the host") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"`{' '.join(command)}` did not end within {timeout_s:g} s") from error
    except OSError as error:
        raise HostError(f"cannot run {command[0]}: {error.strerror}") from error
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise HostError(
            f"`{' '.join(command)}` failed with {done.returncode}: {said[-1] if said else 'no message'}"
        )
    return done.stdout
