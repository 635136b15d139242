"""What a host serves, as it is: state, services, processes, front, and where they contradict each other."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from orchestrator.coldstart.cuda_cache import cuda_environment, policy_violations
from orchestrator.deploy.host import front as fronts
from orchestrator.deploy.host import processes, releases, slots
from orchestrator.deploy.host.layout import Layout
from orchestrator.deploy.host.lock import LockFile
from orchestrator.deploy.host.machine import Machine
from orchestrator.deploy.host.state import SLOTS, Entry, HostState
from orchestrator.errors import HostError, NotRunningError

POLICY: Final = (*cuda_environment(Path("/")), "TRITON_PTXAS_PATH", "TRITON_PTXAS_BLACKWELL_PATH")
"""The variables that `environment` shows; any other one may be a secret."""


def status(machine: Machine) -> dict[str, Any]:
    """Everything known about this host; changes nothing."""
    state = machine.store.read()
    lock = LockFile(machine.layout).read()
    front = fronts.to_dict(machine.front)
    found = {slot: _slot(machine, state, slot) for slot in SLOTS}
    current = releases.current(machine.layout)
    return {
        "changed": False,
        "home": str(machine.layout.home),
        "active": state.active,
        "slots": found,
        "front": front,
        "known_good": None if state.known_good is None else asdict(state.known_good),
        "history": [entry_to_dict(machine.layout, entry) for entry in state.history],
        "transaction": None if state.transaction is None else asdict(state.transaction),
        "lock": None if lock is None else {**lock.to_dict(), "expired": lock.expires <= machine.now()},
        "current": current,
        "releases": releases.ids(machine.layout),
        "mem_available_bytes": machine.memory(),
        "healthy": state.active is not None and found[state.active]["ready"],
        "drift": drift(state, found, front, current),
    }


def entry_to_dict(layout: Layout, entry: Entry) -> dict[str, Any]:
    """One entry of the history as JSON-ready data, with the runtime that it ran with."""
    return {**asdict(entry), "runtime": layout.runtime_of(entry.environment)}


def environment(machine: Machine, slot: str) -> dict[str, Any]:
    """The CUDA policy as the slot's running tritonserver has it, and what in it is wrong.

    Raises:
        NotRunningError: the slot has no tritonserver.
        HostError: its environment cannot be read.
    """
    pids = processes.slot_pids(machine.layout, slot, machine.services.states(slot).values())
    pid = processes.server_pid(pids)
    if pid is None:
        raise NotRunningError(f"slot {slot} runs no tritonserver", fix=f"start it: start {slot}")
    found = processes.environment_of(pid)
    return {
        "changed": False,
        "slot": slot,
        "pid": pid,
        "environment": {name: found.get(name) for name in POLICY},
        "violations": policy_violations(found),
    }


def drift(
    state: HostState, found: dict[str, dict[str, Any]], front: dict[str, Any], current: str | None
) -> list[str]:
    """Where the host is not as its state says, one sentence each; pure."""
    said = []
    for slot, row in found.items():
        serves = slot == state.active
        for service, unit in row["units"].items():
            if serves and unit["active"] != "active":
                said.append(f"{service} of the active slot {slot} is {unit['active']}")
            if unit["active"] == "active" and not serves and state.open is None:
                said.append(f"{service} of slot {slot} runs, and nothing needs it")
            if unit["enabled"] != serves and state.open is None:
                said.append(f"{service} of slot {slot} {'does not start' if serves else 'starts'} at boot")
        if serves and not row["ready"]:
            said.append(f"the active slot {slot} is not ready")
        said += [f"slot {slot}: {violation}" for violation in row["violations"]]
    if state.active is not None:
        said += _front_drift(state, front)
        if state.open is None and state.serving is not None and current != state.serving.release:
            said.append("`current` points at another release than the one that serves")
    return said


def _front_drift(state: HostState, front: dict[str, Any]) -> list[str]:
    if not front["running"]:
        return ["the front does not answer"]
    said = []
    for backend, servers in front["backends"].items():
        for slot, server in servers.items():
            if (server["admin"] == "ready") != (slot == state.active):
                said.append(f"the front has slot {slot} as {server['admin']} in {backend}")
    return said


def _slot(machine: Machine, state: HostState, slot: str) -> dict[str, Any]:
    units = machine.services.states(slot)
    pids = processes.slot_pids(machine.layout, slot, units.values())
    health = (
        machine.probe.health(slot)
        if any(unit.running for unit in units.values())
        else slots.Health(False, False)
    )
    content = state.slots[slot]
    server = processes.server_pid(pids)
    violations: list[str] = []
    if server is not None:
        try:
            violations = policy_violations(processes.environment_of(server))
        except HostError:  # not root, or it ended meanwhile
            violations = []
    return {
        "release": None,
        "environment": None,
        "config": None,
        **({} if content is None else asdict(content)),
        "units": {service: unit.to_dict() for service, unit in units.items()},
        "ports": slots.ports(machine.layout, slot).to_dict(),
        "pids": sorted(pids),
        "memory_bytes": processes.pss_bytes(pids),
        "triton_ready": health.triton,
        "gateway_ready": health.gateway,
        "ready": health.ready,
        "models": health.models,
        "violations": violations,
    }
