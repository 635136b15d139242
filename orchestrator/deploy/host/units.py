"""A slot's services and the timer of a transaction, through systemd."""

from __future__ import annotations

import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from orchestrator.deploy.host import shell
from orchestrator.deploy.host.layout import Layout
from orchestrator.errors import HostError, SlotError

SERVICES: Final = ("triton", "gateway")
"""In the order they start; they stop in the other one."""
FRONT_UNIT: Final = "spark-speech-front.service"
TIMER: Final = "spark-speech-confirm"
STOP_S: Final = 300.0
"""A gateway drains and tritonserver finishes what it has before systemd ends them."""
RETRY_S: Final = 15
"""A revert by the timer that failed is tried again after it."""
LOG_LINES: Final = 12
"""Of each service of a slot, in an error's message."""
_PROPERTIES: Final = (
    "ActiveState,SubState,Result,MainPID,NRestarts,ControlGroup,UnitFileState,LoadState,"
    "Job,ActiveEnterTimestamp"
)
_RUNNING: Final = ("active", "activating", "deactivating", "reloading")


@dataclass(frozen=True)
class UnitState:
    """One unit, as systemd sees it."""

    name: str
    load: str
    active: str
    sub: str
    result: str
    pid: int
    restarts: int
    cgroup: str
    enabled: bool
    since: str
    queued: bool
    """It has a start or stop before it."""

    @property
    def running(self) -> bool:
        """Whether it has, or soon has, a process."""
        return self.active in _RUNNING or self.queued

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "unit": self.name,
            "active": self.active,
            "sub": self.sub,
            "result": self.result,
            "pid": self.pid,
            "restarts": self.restarts,
            "enabled": self.enabled,
            "since": self.since,
        }


class Services(Protocol):
    """What a rollout needs of the machine's service manager."""

    def states(self, slot: str) -> dict[str, UnitState]:
        """The slot's units by service."""

    def unit(self, name: str) -> UnitState:
        """Any unit; also one that is not there."""

    def start(self, slot: str) -> None:
        """Start both services; returns before they are ready."""

    def stop(self, slot: str) -> None:
        """Stop both services; returns when they have ended."""

    def enable(self, slot: str, on: bool) -> None:
        """Whether the slot's services start with the machine."""

    def arm(self, run: str, after_s: float) -> None:
        """Revert ``run`` after so long, unless it is committed by then."""

    def disarm(self) -> None:
        """Forget the timer."""

    def log_tail(self, slot: str) -> list[str]:
        """The last lines the slot's services wrote."""


class Systemd:
    """`Services` through systemctl, systemd-run and journalctl."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def states(self, slot: str) -> dict[str, UnitState]:
        """The slot's units by service."""
        return {service: self.unit(unit_name(service, slot)) for service in SERVICES}

    def unit(self, name: str) -> UnitState:
        """One unit; also one that is not there."""
        text = shell.run(["systemctl", "show", name, f"--property={_PROPERTIES}"])
        found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        return UnitState(
            name,
            found.get("LoadState", ""),
            found.get("ActiveState", "unknown"),
            found.get("SubState", ""),
            found.get("Result", ""),
            int(found.get("MainPID") or 0),
            int(found.get("NRestarts") or 0),
            found.get("ControlGroup", ""),
            found.get("UnitFileState", "") in ("enabled", "enabled-runtime"),
            found.get("ActiveEnterTimestamp", ""),
            found.get("Job", "0") not in ("", "0"),
        )

    def start(self, slot: str) -> None:
        """Start both services; returns before they are ready."""
        names = [unit_name(service, slot) for service in SERVICES]
        # One that fell over too often refuses to start until its failure is forgotten.
        shell.run(["systemctl", "reset-failed", *names], check=False)
        self._do(["systemctl", "start", "--no-block", *names], slot)

    def stop(self, slot: str) -> None:
        """Stop both services, the gateway first; returns when they have ended."""
        for service in reversed(SERVICES):
            self._do(["systemctl", "stop", unit_name(service, slot)], slot)

    def enable(self, slot: str, on: bool) -> None:
        """Whether the slot's services start with the machine."""
        names = [unit_name(service, slot) for service in SERVICES]
        self._do(["systemctl", "enable" if on else "disable", "--quiet", *names], slot)

    def arm(self, run: str, after_s: float) -> None:
        """Revert ``run`` after so long, unless it is committed by then. The timer dies with the machine."""
        older = self._timers()
        name = f"{TIMER}-{time.time_ns()}"
        command = [*own_command(self._layout), "revert", "--run", run, "--unless-committed"]
        shell.run(
            [
                "systemd-run",
                "--quiet",
                "--collect",
                f"--unit={name}",
                f"--on-active={after_s:g}s",
                "--timer-property=AccuracySec=1s",
                "--service-type=oneshot",
                "--property=Restart=on-failure",
                f"--property=RestartSec={RETRY_S}",
                "--description=Revert a deployment that was not committed",
                *_python_path(),
                *command,
            ]
        )
        for left in older:  # only now: at no moment is there none
            shell.run(["systemctl", "stop", f"{left}.timer", f"{left}.service"], check=False)

    def disarm(self) -> None:
        """Forget the timer; a revert that runs already is left alone, for it may be the caller."""
        for name in self._timers():
            shell.run(["systemctl", "stop", f"{name}.timer"], check=False)

    def log_tail(self, slot: str) -> list[str]:
        """The last lines each of the slot's services wrote; empty where the journal does not tell.

        Each has its share: a gateway without its models says more than the models that do not load.
        """
        found: list[str] = []
        for service in SERVICES:
            unit = f"--unit={unit_name(service, slot)}"
            command = ["journalctl", "--no-pager", "--output=cat", f"--lines={LOG_LINES}", unit]
            try:
                found += shell.run(command, check=False, timeout_s=20).splitlines()
            except HostError:
                continue
        return found

    def _timers(self) -> list[str]:
        names = [f"{TIMER}-*.timer", f"{TIMER}-*.service"]
        text = shell.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", *names])
        units = (line.split()[0] for line in text.splitlines() if line.strip())
        return sorted({unit.rpartition(".")[0] for unit in units})

    def _do(self, command: list[str], slot: str) -> None:
        try:
            shell.run(command, timeout_s=STOP_S)
        except HostError as error:
            raise SlotError(f"slot {slot}: {error.message}", fix=error.fix) from error


def unit_name(service: str, slot: str) -> str:
    """The unit of a slot's service."""
    return f"spark-speech-{service}@{slot}.service"


def own_command(layout: Layout) -> list[str]:
    """How this program is called again."""
    program = Path(sys.argv[0]).absolute()
    shipped = program.is_file() and zipfile.is_zipfile(program)
    entry = [str(program)] if shipped else ["-m", "orchestrator.deploy.host"]
    where = ["--home", str(layout.home), "--front-socket", str(layout.front_socket)]
    return [sys.executable or "/usr/bin/python3", *entry, *where]


def _python_path() -> list[str]:
    """Run from a source folder: the timer's process must find it, too."""
    root = Path(__file__).parents[3]
    return [f"--setenv=PYTHONPATH={root}"] if root.is_dir() else []
