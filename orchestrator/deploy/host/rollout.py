"""The verbs of a rollout: each writes down what it is about to do, does it, and may be run again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.deploy.host import mode as modes
from orchestrator.deploy.host import releases
from orchestrator.deploy.host import state as states
from orchestrator.deploy.host.lock import LockFile, refuse_other
from orchestrator.deploy.host.machine import POLL_S, Machine
from orchestrator.deploy.host.restore import READY_S, restore, settle
from orchestrator.deploy.host.state import Content, HostState, Transaction
from orchestrator.errors import TransitionError


@dataclass(frozen=True)
class Wish:
    """What `begin` was asked for; sizes in bytes, times in seconds."""

    run: str
    content: Content
    mode: str = "auto"
    force: bool = False
    confirm_s: float = 900.0
    floor_bytes: int = 8 * modes.GIB


class Rollout:
    """The verbs. ``check`` only says what would change."""

    def __init__(self, machine: Machine, *, check: bool = False) -> None:
        self._machine = machine
        self._store = machine.store
        self._check = check

    def begin(self, wish: Wish) -> dict[str, Any]:
        """Open a transaction, unless the content already serves in good health.

        Raises:
            HostLockedError: another deployment has the host.
            SlotError, FrontError: an older transaction could not be reverted.
        """
        machine = self._machine
        with self._store.guarded(check=self._check):
            if not self._check:
                refuse_other(LockFile(machine.layout).read(), wish.run, machine.now())
            state = self._store.read()
            cut_off = state.open
            if cut_off is not None and self._resumable(state, cut_off, wish):
                if not self._check:
                    machine.services.arm(wish.run, wish.confirm_s)
                return self._begun(state, changed=True, reason="taken up again")
            if cut_off is not None:
                state = states.reverted(state, "") if self._check else self._go_back(state)
            same = state.active is not None and state.serving == wish.content and not wish.force
            if same and state.active is not None and machine.healthy(state.active):
                # A commit that was cut off has left the host as one that starts nothing after a power cut.
                done = not self._check and settle(machine, state)
                reason = "this content serves already"
                return self._begun(
                    state, changed=False, reason=f"{reason}; its commit is finished" if done else reason
                )
            mode, reason = self._mode(state, wish)
            opened = states.begun(state, wish.run, wish.content, mode, reason)
            if self._check:
                return self._begun(opened, changed=True, reason=reason)
            self._store.reserve()
            # Before the transaction is written: a timer without one does nothing, the opposite never ends.
            machine.services.arm(wish.run, wish.confirm_s)
            slot = opened.transaction.slot if opened.transaction else states.SLOTS[0]
            if machine.running(slot):  # left by a commit that was cut off
                self._machine.keep_away(slot)
                machine.services.stop(slot)
            self._store.write(opened)
            return self._begun(opened, changed=True, reason=reason)

    def start(self, slot: str, timeout_s: float = READY_S) -> dict[str, Any]:
        """Start a slot and wait until it is ready.

        Raises:
            TransitionError: no transaction is open for the slot, and it is not the active one.
            SlotError: it fell over or is not ready in time; says what its log says.
        """
        machine = self._machine
        began = machine.monotonic()
        with self._store.guarded(check=self._check):
            state = self._store.read()
            transaction = state.open
            ours = transaction is not None and transaction.slot == slot and transaction.phase != "reverting"
            if self._check:
                return {"changed": not machine.complete(slot), "slot": slot}
            if not ours and slot != state.active:
                raise TransitionError(f"no rollout into slot {slot} is under way", fix="open one with begin")
            if ours and transaction is not None and transaction.mode == "in_place":
                self._free_memory(transaction)
            running = machine.complete(slot)
            before = machine.memory()
            if not running:
                machine.services.start(slot)
        self._machine.wait_ready(slot, timeout_s)
        with self._store.guarded(check=self._check):
            if not running:
                self._machine.note_footprint(slot, before - machine.memory())
            if ours:
                self._store.write(states.started(self._store.read(), slot))
        took = round(machine.monotonic() - began, 2)
        return {"changed": not running, "slot": slot, "ready_s": took}

    def stop(self, slot: str) -> dict[str, Any]:
        """Stop a slot that does not serve.

        Raises:
            TransitionError: it is the active one.
        """
        with self._store.guarded(check=self._check):
            state = self._store.read()
            running = self._machine.running(slot)
            if slot == state.active and running:
                raise TransitionError(
                    f"slot {slot} serves",
                    fix="switch to the other slot first, or use down to end the service",
                )
            if running and not self._check:
                self._machine.keep_away(slot)
                self._machine.services.stop(slot)
            return {"changed": running, "slot": slot}

    def down(self) -> dict[str, Any]:
        """End the service on this host: stop and disable both slots, forget what serves."""
        machine = self._machine
        with self._store.guarded(check=self._check):
            state = self._store.read()
            running = [slot for slot in states.SLOTS if machine.running(slot)]
            changed = bool(running) or state.active is not None or state.open is not None
            if changed and not self._check:
                machine.services.disarm()
                self._store.write(HostState(history=state.history))
                for slot in states.SLOTS:
                    self._machine.keep_away(slot)
                    machine.services.stop(slot)
                    machine.services.enable(slot, False)
            return {"changed": changed, "stopped": running}

    def gated(self, run: str) -> dict[str, Any]:
        """Note that the gate was passed; the front begins to check the slot, and sends it nothing yet.

        Raises:
            TransitionError: the run has no transaction here whose slot was started.
            FrontError: the front refuses.
        """
        front = self._machine.front
        with self._store.guarded(check=self._check):
            state = self._store.read()
            if self._check and (state.transaction is None or state.transaction.run != run):
                return {"changed": True}
            after = states.gated(state, run)
            changed = self._advance(state, after)
            # Until its first check the front would keep `switch` waiting.
            if changed and not self._check and after.transaction is not None and front.running():
                front.set_state(after.transaction.slot, "drain")
            return {"changed": changed}

    def switch(self, slot: str) -> dict[str, Any]:
        """Send new work to the slot; what the other one has, it finishes.

        Raises:
            TransitionError: the slot did not pass the gate in an open transaction, and is not the active one.
            SlotError: its services do not run.
            FrontError: the front does not obey; the other slot serves as before.
        """
        machine = self._machine
        with self._store.guarded(check=self._check):
            state = self._store.read()
            again = state.open is None and slot == state.active
            if self._check:
                return {"changed": slot != state.active, "slot": slot}
            after = state if again else states.switched(state, slot)
            self._machine.require_running(slot)
            moved = machine.front.switch(slot)
            return {"changed": self._advance(state, after) or moved, "slot": slot}

    def drain(self, slot: str, limit_s: float) -> dict[str, Any]:
        """Wait until a slot has neither requests nor live streams; what is left after ``limit_s``.

        Raises:
            TransitionError: it is the active slot, and no rollout would bring another one.
            FrontError: the front does not answer.
        """
        machine = self._machine
        with self._store.guarded(check=self._check):
            state = self._store.read()
            if slot == state.active and state.open is None:
                raise TransitionError(f"slot {slot} serves", fix="begin a rollout, or use down")
            if self._check:
                return {"changed": False, "slot": slot, "left": {"requests": 0, "streams": 0}}
            changed = any(row.slot == slot and row.admin == "ready" for row in machine.front.servers())
            if changed:
                machine.front.set_state(slot, "drain")
        began = machine.monotonic()
        while any((left := self._machine.left(slot)).values()) and machine.monotonic() - began < limit_s:
            machine.sleep(POLL_S)
        waited = round(machine.monotonic() - began, 2)
        return {"changed": changed, "slot": slot, "left": left, "waited_s": waited}

    def commit(self, run: str) -> dict[str, Any]:
        """Make what serves the known good; stop the old slot.

        Raises:
            TransitionError: the run was not switched, or another one is open.
            SlotError: the services that should serve do not run.
            ReleaseNotFoundError: the release is gone from the disk.
        """
        machine = self._machine
        with self._store.guarded(check=self._check):
            state = self._store.read()
            transaction = state.transaction
            if transaction is None or transaction.run != run:
                if state.open is not None:
                    raise TransitionError(
                        f"run {state.open.run} is open ({state.open.phase}), not {run}", fix="revert it first"
                    )
                return {"changed": False, "reason": f"run {run} changed nothing here"}
            after = states.committed(state, run, machine.at())
            if self._check:
                return {"changed": after != state}
            if after != state:
                self._machine.require_running(transaction.slot)
                if after.serving is not None:
                    releases.require(machine.layout, after.serving.release)
            changed = self._advance(state, after)
            machine.services.disarm()
            return {
                "changed": settle(machine, after) or changed,
                "slot": after.active,
                "known_good": _dict(after.known_good),
            }

    def revert(self, run: str, *, unless_committed: bool = False) -> dict[str, Any]:
        """Back to what served before ``run``; again does no harm, and finishes what was cut off.

        Raises:
            SlotError, FrontError: the old content does not come up; try again, or look at the host.
        """
        with self._store.guarded(check=self._check):
            state = self._store.read()
            transaction = state.transaction
            if transaction is None or transaction.run != run:
                return {"changed": False, "reason": f"run {run} changed nothing here"}
            if unless_committed and transaction.phase == "committed":
                return {"changed": False, "reason": "committed"}
            return self._back(state)

    def recover(self) -> dict[str, Any]:
        """Revert an open transaction, whosever it is: for the start of the machine.

        Raises:
            SlotError, FrontError: as `revert`.
        """
        with self._store.guarded(check=self._check):
            state = self._store.read()
            if state.open is None:
                return {"changed": False, "reason": "nothing was cut off"}
            return self._back(state)

    def extend(self, run: str, confirm_s: float) -> dict[str, Any]:
        """Arm the timer anew, if the run is open here."""
        with self._store.guarded(check=self._check):
            transaction = self._store.read().open
            if transaction is None or transaction.run != run:
                return {"changed": False, "reason": f"run {run} is not open here"}
            if not self._check:
                self._machine.services.arm(run, confirm_s)
            return {"changed": False, "confirm_s": confirm_s}

    def watch(self, run: str, ttl_s: float) -> dict[str, Any]:
        """Wait until the run has ended here, at most ``ttl_s``; then revert it unless it was committed."""
        machine = self._machine
        began = machine.monotonic()
        while (found := self._store.read().open) is not None and found.run == run:
            if machine.monotonic() - began >= ttl_s:
                return self.revert(run, unless_committed=True)
            machine.sleep(POLL_S)
        return {"changed": False, "reason": "the run has ended"}

    def _resumable(self, state: HostState, transaction: Transaction, wish: Wish) -> bool:
        return (
            transaction.run == wish.run
            and transaction.phase != "reverting"
            and state.slots[transaction.slot] == wish.content
            and not wish.force
        )

    def _mode(self, state: HostState, wish: Wish) -> tuple[str, str]:
        machine = self._machine
        serving = state.active is not None and machine.running(state.active)
        return modes.choose(
            wish.mode,
            serving=serving,
            available_bytes=machine.memory(),
            footprint_bytes=machine.footprint_bytes(state.active) if state.active and serving else 0,
            floor_bytes=wish.floor_bytes,
        )

    def _begun(self, state: HostState, *, changed: bool, reason: str) -> dict[str, Any]:
        transaction = state.transaction if changed else None
        previous = None if transaction is None else transaction.previous
        return {
            "changed": changed,
            "slot": state.active if transaction is None else transaction.slot,
            "mode": None if transaction is None else transaction.mode,
            "phase": None if transaction is None else transaction.phase,
            "reason": reason,
            "previous": {
                "slot": state.active if previous is None else previous.active,
                **(_dict(state.serving if previous is None else previous.content) or {}),
            },
        }

    def _advance(self, before: HostState, after: HostState) -> bool:
        if after == before:
            return False
        if not self._check:
            self._store.write(after)
        return True

    def _free_memory(self, transaction: Transaction) -> None:
        """In place: the old slot goes first. Its requests were drained by who asked for the rollout."""
        old = transaction.previous.active
        if old is not None and transaction.phase == "begun" and self._machine.running(old):
            self._machine.keep_away(old)  # clients hear at once that nothing serves here
            self._machine.services.stop(old)

    def _back(self, state: HostState) -> dict[str, Any]:
        if self._check:
            return {"changed": state.transaction is not None and state.transaction.phase != "reverted"}
        if state.transaction is not None and state.transaction.phase == "reverted":
            changed = restore(self._machine, state)
        else:
            state = self._go_back(state)
            changed = True
        return {"changed": changed, "slot": state.active, "serving": _dict(state.serving)}

    def _go_back(self, state: HostState) -> HostState:
        """Revert the transaction of ``state``; the state afterwards."""
        state = states.reverting(state)
        self._store.write(state)
        restore(self._machine, state)
        state = states.reverted(state, self._machine.at())
        self._store.write(state)
        self._machine.services.disarm()
        return state


def _dict(content: Content | None) -> dict[str, str] | None:
    return None if content is None else asdict(content)
