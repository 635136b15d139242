"""A host in memory that can be killed between any two things it does."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.deploy.host.front import Server
from orchestrator.deploy.host.layout import Layout
from orchestrator.deploy.host.machine import Machine
from orchestrator.deploy.host.slots import Health
from orchestrator.deploy.host.state import SLOTS, HostState, other
from orchestrator.deploy.host.store import StateStore
from orchestrator.deploy.host.units import SERVICES, UnitState
from orchestrator.errors import FrontError


class Killed(BaseException):
    """As by ``kill -9``: nothing catches it."""


@dataclass
class World:
    """What is outside of the program: it stays when the program is killed.

    ``broken`` are slots whose content never becomes ready; ``budget`` is how many more effects the program
    has before it is killed, None for any number.
    """

    running: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(SLOTS, False))
    enabled: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(SLOTS, False))
    admin: dict[str, str] = field(default_factory=lambda: dict.fromkeys(SLOTS, "maint"))
    broken: set[str] = field(default_factory=set)
    without_gateway: set[str] = field(default_factory=set)
    armed: str | None = None
    front_runs: bool = True
    stopped: set[str] = field(default_factory=set)
    available: int = 64 * 1024**3
    streams: int | None = 0
    seconds: float = 1_000_000.0
    budget: int | None = None
    effects: list[str] = field(default_factory=list)

    def spend(self, effect: str) -> None:
        """Note an effect, or die instead of it."""
        if self.budget is not None:
            if self.budget == 0:
                raise Killed
            self.budget -= 1
        self.effects.append(effect)

    def serves(self, slot: str) -> bool:
        """Whether a request that the front sends to the slot is answered."""
        return self.running[slot] and slot not in self.broken and slot not in self.without_gateway

    @property
    def answered(self) -> bool:
        """Whether every new request is answered: all that may get it can, and somebody may."""
        ready = [slot for slot in SLOTS if self.admin[slot] == "ready"]
        return bool(ready) and all(self.serves(slot) for slot in ready)


class FakeServices:
    def __init__(self, world: World) -> None:
        self._world = world

    def states(self, slot: str) -> dict[str, UnitState]:
        def state(service: str) -> UnitState:
            runs = self._world.running[slot] and (service, slot in self._world.without_gateway) != (
                "gateway",
                True,
            )
            active, on = "active" if runs else "inactive", self._world.enabled[slot]
            return UnitState(f"{service}@{slot}", "loaded", active, "", "", 0, 0, "", on, "", False)

        return {service: state(service) for service in SERVICES}

    def unit(self, name: str) -> UnitState:
        active = "inactive" if name in self._world.stopped else "active"
        return UnitState(name, "loaded", active, "", "", 0, 0, "", name not in self._world.stopped, "", False)

    def start(self, slot: str) -> None:
        self._world.spend(f"start {slot}")
        self._world.running[slot] = True
        self._world.without_gateway.discard(slot)

    def stop(self, slot: str) -> None:
        self._world.spend(f"stop {slot}")
        self._world.running[slot] = False

    def enable(self, slot: str, on: bool) -> None:
        self._world.spend(f"{'enable' if on else 'disable'} {slot}")
        self._world.enabled[slot] = on

    def arm(self, run: str, after_s: float) -> None:
        self._world.spend(f"arm {run}")
        self._world.armed = run

    def disarm(self) -> None:
        self._world.spend("disarm")
        self._world.armed = None

    def log_tail(self, slot: str) -> list[str]:
        return ["the last line"]


class FakeFront:
    def __init__(self, world: World) -> None:
        self._world = world

    def _check(self) -> None:
        if not self._world.front_runs:
            raise FrontError("the front does not answer")

    def running(self) -> bool:
        return self._world.front_runs

    def servers(self) -> list[Server]:
        self._check()
        return [Server("triton", slot, self._world.admin[slot], self._world.serves(slot)) for slot in SLOTS]

    def switch(self, slot: str) -> bool:
        self._check()
        before = dict(self._world.admin)
        self.set_state(slot, "ready")
        if self._world.admin[other(slot)] == "ready":
            self.set_state(other(slot), "drain")
        return before != self._world.admin

    def set_state(self, slot: str, admin: str) -> bool:
        self._check()
        if self._world.admin[slot] == admin:
            return False
        self._world.spend(f"front {slot} {admin}")
        self._world.admin[slot] = admin
        return True

    def sessions(self, slot: str) -> int:
        return 0

    def sequences(self, slot: str) -> int:
        return 7


class FakeProbe:
    def __init__(self, world: World) -> None:
        self._world = world

    def health(self, slot: str) -> Health:
        ready = self._world.serves(slot)
        return Health(ready, ready, [{"name": "parakeet", "ready": ready, "reason": "" if ready else "torn"}])

    def streams(self, slot: str) -> int | None:
        return self._world.streams


class KillableStore(StateStore):
    def __init__(self, layout: Layout, world: World) -> None:
        super().__init__(layout)
        self._world = world

    def write(self, state: HostState) -> None:
        self._world.spend("write")
        super().write(state)


@dataclass(frozen=True)
class FakeMachine(Machine):
    world: World = field(default_factory=World)

    @property
    def store(self) -> StateStore:
        return KillableStore(self.layout, self.world)


def machine(home: Path, world: World) -> FakeMachine:
    """The program's view of ``world``."""
    ticks = itertools.count()

    def sleep(seconds: float) -> None:
        world.seconds += seconds

    clock: Callable[[], float] = lambda: world.seconds + next(ticks) * 1e-6  # noqa: E731
    return FakeMachine(
        Layout(home, home / "front.sock"),
        FakeServices(world),
        FakeFront(world),
        FakeProbe(world),
        now=clock,
        monotonic=clock,
        sleep=sleep,
        memory=lambda: world.available,
        world=world,
    )
