"""Bringing a host to what its state says: the way back of a transaction, and tidying up after its end."""

from __future__ import annotations

from typing import Final

from orchestrator.deploy.host import front as fronts
from orchestrator.deploy.host import releases
from orchestrator.deploy.host import state as states
from orchestrator.deploy.host.machine import Machine
from orchestrator.deploy.host.state import HostState
from orchestrator.deploy.host.store import write_surely

READY_S: Final = 600.0
"""What a slot gets to become ready: large models take minutes from a cold disk."""


def settle(machine: Machine, state: HostState) -> bool:
    """Bring the machine to a state without open transaction: the old slot ends, boot starts the new."""
    changed = False
    for slot in states.SLOTS:
        serves = slot == state.active
        enabled = [unit.enabled for unit in machine.services.states(slot).values()]
        if (not all(enabled)) if serves else any(enabled):
            machine.services.enable(slot, serves)
            changed = True
        if not serves:
            machine.keep_away(slot)
            if machine.running(slot):
                machine.services.stop(slot)
                changed = True
    if state.serving is not None and releases.here(machine.layout, state.serving.release):
        changed = releases.point(machine.layout, state.serving.release) or changed
    return changed


def restore(machine: Machine, state: HostState) -> bool:
    """Let the slot from before the transaction serve, and nothing else."""
    transaction = state.transaction
    if transaction is None:
        return False
    old, new = transaction.previous.active, transaction.slot
    changed = False
    if (old is None or transaction.mode == "in_place") and machine.running(new):
        machine.keep_away(new)
        machine.services.stop(new)  # no memory for both, or nothing comes after it
        changed = True
    if old is not None:
        if not machine.complete(old):
            machine.services.start(old)
            changed = True
        if changed or not machine.healthy(old):
            machine.wait_ready(old, READY_S)
        if machine.front.running():
            changed = machine.front.switch(old) or changed
        else:
            _rewrite_front(machine, old)
    return settle(machine, states.reverted(state, "") if transaction.open else state) or changed


def _rewrite_front(machine: Machine, slot: str) -> None:
    path = machine.layout.front_state
    if path.exists():
        text = fronts.switched_file(path.read_text(encoding="utf-8"), slot)
        write_surely(machine.layout, path, text.encode("utf-8"))
