"""The host that verbs act on: services, front and probes together, each of them replaceable."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from orchestrator.deploy.host import processes
from orchestrator.deploy.host.front import Front
from orchestrator.deploy.host.layout import Layout
from orchestrator.deploy.host.slots import Probe
from orchestrator.deploy.host.store import StateStore, read_json, write_json
from orchestrator.deploy.host.units import Services
from orchestrator.errors import SlotError

RESTARTS_MAX: Final = 2
"""A service that systemd restarted so often while it should become ready will not."""
POLL_S: Final = 0.5


@dataclass(frozen=True)
class Machine:
    """The host that verbs act on; each part can be another one in tests."""

    layout: Layout
    services: Services
    front: Front
    probe: Probe
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    memory: Callable[[], int] = processes.mem_available_bytes

    @property
    def store(self) -> StateStore:
        """``state.json``."""
        return StateStore(self.layout)

    def running(self, slot: str) -> bool:
        """Whether any service of the slot has a process."""
        return any(unit.running for unit in self.services.states(slot).values())

    def complete(self, slot: str) -> bool:
        """Whether every service of the slot has a process, or soon will."""
        return all(unit.running for unit in self.services.states(slot).values())

    def healthy(self, slot: str) -> bool:
        """Whether all services of the slot run and a request sent there would be answered."""
        units = self.services.states(slot).values()
        return all(unit.active == "active" for unit in units) and self.probe.health(slot).ready

    def footprint_bytes(self, slot: str) -> int:
        """What the slot takes: its processes' memory, or what starting it took where that was more.

        GPU memory of a machine that shares it with the processor shows in no process.
        """
        pids = processes.slot_pids(self.layout, slot, self.services.states(slot).values())
        noted = read_json(self.layout.footprints)
        start = noted.get(slot, 0) if isinstance(noted, dict) else 0
        return max(processes.pss_bytes(pids), start if isinstance(start, int) else 0)

    def at(self) -> str:
        """Now, for the history."""
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.now()))

    def wait_ready(self, slot: str, timeout_s: float) -> None:
        """Wait until the slot is `healthy`.

        Raises:
            SlotError: it is not in time, or never will be; says why, with the end of its log.
        """
        deadline = self.monotonic() + timeout_s
        at_first = {service: unit.restarts for service, unit in self.services.states(slot).items()}
        while True:
            units = self.services.states(slot)
            health = self.probe.health(slot)
            if health.ready and all(unit.active == "active" for unit in units.values()):
                return
            for service, unit in units.items():
                restarts = unit.restarts - at_first[service]
                gone = unit.active == "failed" or unit.load == "not-found" or not unit.running
                if gone or restarts >= RESTARTS_MAX:
                    raise self._not_ready(slot, f"{service} is {unit.active} ({unit.result or unit.load})")
            broken = [f"{model['name']}: {model['reason']}" for model in health.models if model["reason"]]
            if broken:
                raise self._not_ready(slot, f"a model cannot be served: {'; '.join(broken)}")
            if self.monotonic() > deadline:
                missing = [name for name in ("triton", "gateway") if not getattr(health, name)]
                raise self._not_ready(
                    slot, f"not ready after {timeout_s:g} s: {' and '.join(missing) or 'its models'}"
                )
            self.sleep(POLL_S)

    def _not_ready(self, slot: str, why: str) -> SlotError:
        tail = "\n".join(self.services.log_tail(slot))
        fix = f"look at its log: journalctl -u 'spark-speech-*@{slot}'"
        return SlotError(f"slot {slot}: {why}" + (f"\n{tail}" if tail else ""), fix=fix)

    def require_running(self, slot: str) -> None:
        """Make sure that all services of the slot run.

        Raises:
            SlotError: one does not.
        """
        for service, unit in self.services.states(slot).items():
            if unit.active != "active":
                raise self._not_ready(slot, f"{service} is {unit.active} ({unit.result or unit.load})")

    def left(self, slot: str) -> dict[str, int]:
        """What a slot still works on. Its models know their streams; the front knows who may come back."""
        open_streams = self.probe.streams(slot)
        streams = self.front.sequences(slot) if open_streams is None else open_streams
        return {"requests": self.front.sessions(slot), "streams": streams}

    def note_footprint(self, slot: str, taken: int) -> None:
        """Keep how many bytes of memory starting the slot took."""
        noted = read_json(self.layout.footprints)
        write_json(
            self.layout.footprints,
            {**(noted if isinstance(noted, dict) else {}), slot: max(0, taken)},
        )

    def keep_away(self, slot: str) -> None:
        """Let the front send nothing to a slot; a front that does not run sends nothing anyway."""
        if self.front.running():
            self.front.set_state(slot, "maint")
