"""Verbs on a host in memory that is killed at any point: it always finds its way back."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.deploy.host import store
from orchestrator.deploy.host.lock import Lock, LockFile
from orchestrator.deploy.host.rollout import Rollout, Wish
from orchestrator.deploy.host.state import SLOTS, Content, other, violations
from orchestrator.errors import (
    DiskFullError,
    HostLockedError,
    ReleaseNotFoundError,
    SlotError,
    SpeechError,
    TransitionError,
)
from tests.deploy.host.fakes import FakeMachine, Killed, World, machine

A, B, C = (Content(letter * 64, f"env-{letter}", f"cfg-{letter}") for letter in "abc")
GIB = 1024**3


def add_release(home: Path, content: Content) -> None:
    folder = home / "releases" / content.release
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text("{}")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def host(tmp_path: Path, world: World) -> FakeMachine:
    for content in (A, B, C):
        add_release(tmp_path, content)
    return machine(tmp_path, world)


def deploy(host: FakeMachine, run: str, content: Content, mode: str = "blue_green") -> dict[str, Any]:
    rollout = Rollout(host)
    begun = rollout.begin(Wish(run, content, mode))
    if begun["changed"]:
        rollout.start(begun["slot"])
        rollout.gated(run)
        rollout.switch(begun["slot"])
    return begun


def deployed(host: FakeMachine, run: str, content: Content, mode: str = "blue_green") -> None:
    deploy(host, run, content, mode)
    Rollout(host).commit(run)


def test_the_first_rollout_serves_and_starts_with_the_machine(host: FakeMachine, world: World) -> None:
    deployed(host, "r1", A)
    assert host.store.read().known_good == A
    assert world.running == world.enabled == {"blue": True, "green": False}
    assert world.admin == {"blue": "ready", "green": "maint"}
    assert world.armed is None
    assert (host.layout.releases / "current").readlink().name == A.release


def test_the_same_content_again_changes_nothing(host: FakeMachine, world: World) -> None:
    deployed(host, "r1", A)
    world.effects.clear()
    assert deploy(host, "r2", A)["changed"] is False
    assert Rollout(host).commit("r2")["changed"] is False
    assert world.effects == []


@pytest.mark.parametrize("change", ["release", "environment", "config"])
def test_any_part_of_the_content_makes_a_rollout_needed(host: FakeMachine, change: str) -> None:
    deployed(host, "r1", A)
    begun = Rollout(host).begin(Wish("r2", replace(A, **{change: getattr(B, change)})))
    assert (begun["changed"], begun["slot"]) == (True, "green")
    assert begun["previous"] == {
        "slot": "blue",
        "release": A.release,
        "environment": A.environment,
        "config": A.config,
    }


def test_the_same_content_that_is_not_well_is_rolled_out_anew(host: FakeMachine, world: World) -> None:
    deployed(host, "r1", A)
    world.broken.add("blue")
    assert deploy(host, "r2", A)["slot"] == "green"


def test_the_front_looks_at_a_slot_only_once_its_gate_is_passed(host: FakeMachine, world: World) -> None:
    deployed(host, "r1", A)
    rollout = Rollout(host)
    slot = rollout.begin(Wish("r2", B))["slot"]
    rollout.start(slot)
    assert world.admin == {"blue": "ready", "green": "maint"}
    rollout.gated("r2")
    assert world.admin == {"blue": "ready", "green": "drain"}
    rollout.revert("r2")
    assert world.admin == {"blue": "ready", "green": "maint"}


def test_the_old_slot_drains_until_the_commit_stops_it(host: FakeMachine, world: World) -> None:
    deployed(host, "r1", A)
    deploy(host, "r2", B)
    assert world.admin == {"blue": "drain", "green": "ready"}
    assert world.running == {"blue": True, "green": True}
    Rollout(host).commit("r2")
    assert world.admin == {"blue": "maint", "green": "ready"}
    assert world.running == world.enabled == {"blue": False, "green": True}


def test_in_place_stops_the_old_slot_before_it_starts_the_new_one(host: FakeMachine, world: World) -> None:
    deployed(host, "r1", A)
    begun = deploy(host, "r2", B, "in_place")
    assert (begun["slot"], begun["mode"]) == ("green", "in_place")
    assert world.effects.index("stop blue") < world.effects.index("start green")
    Rollout(host).revert("r2")
    assert world.running == {"blue": True, "green": False}
    assert world.effects.index("stop green") < len(world.effects) - world.effects[::-1].index("start blue")
    assert host.store.read().serving == A


def test_auto_takes_what_the_memory_allows(host: FakeMachine, world: World) -> None:
    deployed(host, "r1", A)
    world.available = 10 * GIB
    host.note_footprint("blue", 1 * GIB)
    assert Rollout(host, check=True).begin(Wish("r2", B))["mode"] == "blue_green"
    host.note_footprint("blue", 3 * GIB)
    begun = Rollout(host).begin(Wish("r2", B))
    assert begun["mode"] == "in_place"
    assert "10.0 GiB available less 3.0 GiB" in begun["reason"]


def test_a_slot_that_does_not_become_ready_says_why_and_is_reverted(host: FakeMachine, world: World) -> None:
    deployed(host, "r1", A)
    world.broken.add("green")
    with pytest.raises(SlotError, match="torn") as failure:
        deploy(host, "r2", B)
    assert "the last line" in failure.value.message
    assert world.answered
    Rollout(host).revert("r2")
    assert world.running == {"blue": True, "green": False}
    assert host.store.read().history[-1].outcome == "reverted"


def test_a_committed_run_can_still_be_reverted(host: FakeMachine, world: World) -> None:
    deployed(host, "r1", A)
    deployed(host, "r2", B)
    assert Rollout(host).revert("r2", unless_committed=True)["changed"] is False
    assert Rollout(host).revert("r2")["changed"] is True
    state = host.store.read()
    assert (state.active, state.serving, state.known_good) == ("blue", A, A)
    assert world.running == world.enabled == {"blue": True, "green": False}
    assert (host.layout.releases / "current").readlink().name == A.release
    world.effects.clear()
    assert Rollout(host).revert("r2")["changed"] is False
    assert world.effects == []


def test_a_rollback_can_be_rolled_back(host: FakeMachine, world: World) -> None:
    for run, content in (("r1", A), ("r2", B), ("r3", A), ("r4", B)):
        deployed(host, run, content)
        assert host.store.read().known_good == content
        assert world.answered
    assert [entry.release for entry in host.store.read().history] == [
        content.release for content in (A, B, A, B)
    ]


def test_a_first_rollout_is_reverted_to_nothing(host: FakeMachine, world: World) -> None:
    deploy(host, "r1", A)
    Rollout(host).revert("r1")
    assert host.store.read().active is None
    assert world.running == world.enabled == {"blue": False, "green": False}
    assert world.admin == {"blue": "maint", "green": "maint"}


def test_another_run_reverts_what_a_dead_controller_left(host: FakeMachine, world: World) -> None:
    deployed(host, "r1", A)
    deploy(host, "r2", B)
    begun = Rollout(host).begin(Wish("r3", C))
    assert (begun["slot"], begun["previous"]["slot"]) == ("green", "blue")
    assert world.armed == "r3"
    assert world.admin == {"blue": "ready", "green": "maint"}


def test_the_same_run_goes_on_where_it_was(host: FakeMachine, world: World) -> None:
    deployed(host, "r1", A)
    deploy(host, "r2", B)
    world.effects.clear()
    assert deploy(host, "r2", B)["phase"] == "switched"
    assert "stop green" not in world.effects
    assert Rollout(host).commit("r2")["changed"] is True


def test_a_revert_of_another_run_changes_nothing(host: FakeMachine, world: World) -> None:
    deployed(host, "r1", A)
    world.effects.clear()
    assert Rollout(host).revert("r0")["changed"] is False
    assert world.effects == []


def test_the_host_of_another_deployment_is_left_alone(host: FakeMachine) -> None:
    LockFile(host.layout).write(Lock("ada@desk", "r1", 42, host.now(), host.now() + 60))
    with pytest.raises(HostLockedError, match=r"ada@desk \(pid 42, run r1\)"):
        Rollout(host).begin(Wish("r2", A))


def test_a_commit_needs_the_release_on_the_disk_and_the_services_running(
    host: FakeMachine, world: World
) -> None:
    deploy(host, "r1", A)
    world.running["blue"] = False
    with pytest.raises(SlotError):
        Rollout(host).commit("r1")
    world.running["blue"] = True
    shutil.rmtree(host.layout.releases / A.release)
    with pytest.raises(ReleaseNotFoundError):
        Rollout(host).commit("r1")
    assert host.store.read().known_good is None


def test_the_serving_slot_is_neither_stopped_nor_drained_on_its_own(host: FakeMachine) -> None:
    deployed(host, "r1", A)
    with pytest.raises(TransitionError):
        Rollout(host).stop("blue")
    with pytest.raises(TransitionError):
        Rollout(host).drain("blue", 1.0)
    with pytest.raises(TransitionError):
        Rollout(host).switch("green")
    with pytest.raises(TransitionError):
        Rollout(host).start("green")


def test_drain_waits_for_streams_and_says_what_is_left(host: FakeMachine, world: World) -> None:
    deployed(host, "r1", A)
    deploy(host, "r2", B)
    world.streams = 3
    drained = Rollout(host).drain("blue", 5.0)
    assert drained["left"] == {"requests": 0, "streams": 3}
    assert drained["waited_s"] >= 5.0
    world.streams = 0
    assert Rollout(host).drain("blue", 5.0)["waited_s"] < 1.0
    world.streams = None  # a model without the metric: the front's table counts
    assert Rollout(host).drain("blue", 1.0)["left"]["streams"] == 7


def test_check_changes_nothing(host: FakeMachine, world: World) -> None:
    check = Rollout(host, check=True)
    assert check.begin(Wish("r1", A))["slot"] == "blue"
    deployed(host, "r1", A)
    deploy(host, "r2", B)
    before = host.store.read()
    world.effects.clear()
    assert check.commit("r2")["changed"] is True
    assert check.revert("r2")["changed"] is True
    assert check.recover()["changed"] is True
    assert check.stop("green")["changed"] is True if before.active != "green" else True
    assert check.down()["changed"] is True
    assert check.begin(Wish("r3", C))["slot"] == "green"
    assert world.effects == []
    assert host.store.read() == before


def test_down_ends_everything_and_keeps_the_history(host: FakeMachine, world: World) -> None:
    deployed(host, "r1", A)
    assert Rollout(host).down()["changed"] is True
    assert world.running == world.enabled == {"blue": False, "green": False}
    assert host.store.read().active is None
    assert Rollout(host).down()["changed"] is False


def test_watch_reverts_what_nobody_commits(host: FakeMachine, world: World) -> None:
    deployed(host, "r1", A)
    deploy(host, "r2", B)
    assert Rollout(host).watch("r2", 30.0)["serving"]["release"] == A.release
    assert Rollout(host).watch("r2", 30.0)["changed"] is False


def test_a_revert_without_a_front_tells_it_through_its_file(host: FakeMachine, world: World) -> None:
    deployed(host, "r1", A)
    deploy(host, "r2", B)
    host.layout.front_state.write_text(
        "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state\n"
        "3 triton 1 blue 127.0.0.1 2 8\n3 triton 2 green 127.0.0.1 2 0\n"
    )
    world.front_runs = False
    Rollout(host).revert("r2")
    rows = [line.split() for line in host.layout.front_state.read_text().splitlines()[2:]]
    assert [(row[3], row[6]) for row in rows] == [("blue", "0"), ("green", "1")]


@pytest.mark.parametrize("budget", range(12))
def test_a_revert_that_was_killed_is_not_committed_but_finished(
    host: FakeMachine, world: World, budget: int
) -> None:
    deployed(host, "r1", A)
    deploy(host, "r2", B)
    world.budget = budget
    try:
        Rollout(host).revert("r2")
    except Killed:
        world.budget = None
        if budget:
            with pytest.raises(TransitionError):
                Rollout(host).commit("r2")
    world.budget = None
    assert world.answered
    Rollout(host).revert("r2")
    assert host.store.read().serving == A
    assert world.admin == {"blue": "ready", "green": "maint"}


@pytest.mark.parametrize(
    ("budget", "wanted"), [*((n, B) for n in range(10)), *((n, (A, C)[n // 2 % 2]) for n in range(0, 10, 2))]
)
def test_a_host_that_is_cut_off_inside_its_commit_joins_the_others_at_the_next_run(
    tmp_path: Path, budget: int, wanted: Content
) -> None:
    """The others went back. This one commits, or goes back when its time is up; then both do the same."""
    worlds = World(), World()
    others, cut = (machine(tmp_path / name, world) for name, world in zip("xy", worlds, strict=True))
    for host in (others, cut):
        for content in (A, B, C):
            add_release(host.layout.home, content)
        deployed(host, "r1", A)
        deploy(host, "r2", B)
    Rollout(others).commit("r2")
    worlds[1].budget = budget
    with suppress(Killed):
        Rollout(cut).commit("r2")
    worlds[1].budget = None
    Rollout(others).revert("r2")
    Rollout(cut).revert("r2", unless_committed=True)  # the timer's
    assert others.store.read().serving == A
    assert cut.store.read().serving in (A, B)
    assert all(world.answered for world in worlds)
    for host in (others, cut):
        deployed(host, "r3", wanted)
        state = host.store.read()
        assert (state.open, state.serving, state.known_good) == (None, wanted, wanted)
    for host, world in zip((others, cut), worlds, strict=True):
        active = host.store.read().active
        assert active is not None
        assert world.running == {active: True, other(active): False}
        assert world.enabled == {active: True, other(active): False}


def test_a_service_that_died_alone_is_started_again(host: FakeMachine, world: World) -> None:
    deployed(host, "r1", A)
    deploy(host, "r2", B)
    world.without_gateway.add("blue")
    Rollout(host).revert("r2")
    assert world.answered
    begun = Rollout(host).begin(Wish("r3", B))
    Rollout(host).start(begun["slot"])
    world.without_gateway.add(begun["slot"])
    assert Rollout(host).start(begun["slot"])["changed"] is True
    assert world.without_gateway == set()


def test_a_full_disk_stops_a_rollout_but_not_the_way_back(
    host: FakeMachine, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed(host, "r1", A)
    deploy(host, "r2", B)
    reserve = host.layout.reserve
    real = store.write_atomic

    def write(path: Path, data: bytes) -> None:
        if reserve.exists() or path == reserve:
            raise DiskFullError("no space left")
        real(path, data)

    monkeypatch.setattr(store, "write_atomic", write)
    Rollout(host).revert("r2")
    assert host.store.read().serving == A
    world.effects.clear()
    with pytest.raises(DiskFullError):
        Rollout(host).begin(Wish("r3", B))
    assert world.effects == []
    monkeypatch.undo()
    assert deploy(host, "r3", B)["changed"] is True
    assert reserve.stat().st_size == store.RESERVE_BYTES


class Host(RuleBasedStateMachine):
    """Any verbs in any order, each killed after any number of effects, with content that may not work."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.world = World()
        self.host = machine(self.home, self.world)
        self.in_place = False

    @initialize(in_place=st.booleans())
    def first(self, in_place: bool) -> None:
        self.in_place = in_place
        for content in (A, B, C):
            add_release(self.home, content)
        deployed(self.host, "r0", A)

    def attempt(self, act: Callable[[], object], budget: int | None) -> None:
        self.world.budget = budget
        try:
            act()
        except (SpeechError, Killed):
            pass
        finally:
            self.world.budget = None

    budgets = st.one_of(st.none(), st.integers(0, 9))
    runs = st.sampled_from(["r1", "r2"])
    slots = st.sampled_from(SLOTS)
    contents = st.sampled_from([A, B, C])

    def wish(self, run: str, content: Content) -> Wish:
        return Wish(run, content, "in_place" if self.in_place else "blue_green")

    @rule(run=runs, content=contents, budget=budgets)
    def begin(self, run: str, content: Content, budget: int | None) -> None:
        self.attempt(lambda: Rollout(self.host).begin(self.wish(run, content)), budget)
        state = self.host.store.read()
        if state.open is not None and state.open.phase == "begun":
            self.world.broken.discard(state.open.slot)

    @rule(run=runs, content=contents, budget=st.one_of(st.none(), st.integers(0, 25)), commits=st.booleans())
    def rollout(self, run: str, content: Content, budget: int | None, commits: bool) -> None:
        def act() -> None:
            rollout = Rollout(self.host)
            begun = rollout.begin(self.wish(run, content))
            if begun["changed"]:
                if begun["phase"] == "begun":
                    self.world.broken.discard(begun["slot"])
                rollout.start(begun["slot"])
                rollout.switch(begun["slot"])
            if commits:
                rollout.commit(run)

        self.attempt(act, budget)

    @precondition(lambda self: self.host.store.read().open is not None)
    @rule(budget=budgets, broken=st.booleans())
    def start(self, budget: int | None, broken: bool) -> None:
        opened = self.host.store.read().open
        assert opened is not None
        if broken and opened.phase == "begun":
            self.world.broken.add(opened.slot)
        self.attempt(lambda: Rollout(self.host).start(opened.slot), budget)

    @rule(slot=slots, budget=budgets)
    def switch(self, slot: str, budget: int | None) -> None:
        self.attempt(lambda: Rollout(self.host).switch(slot), budget)

    @rule(slot=slots, budget=budgets)
    def stop(self, slot: str, budget: int | None) -> None:
        self.attempt(lambda: Rollout(self.host).stop(slot), budget)

    @rule(run=runs, budget=budgets)
    def gated(self, run: str, budget: int | None) -> None:
        self.attempt(lambda: Rollout(self.host).gated(run), budget)

    @rule(run=runs, budget=budgets)
    def commit(self, run: str, budget: int | None) -> None:
        self.attempt(lambda: Rollout(self.host).commit(run), budget)

    @rule(run=runs, budget=budgets, unless=st.booleans())
    def revert(self, run: str, budget: int | None, unless: bool) -> None:
        self.attempt(lambda: Rollout(self.host).revert(run, unless_committed=unless), budget)

    @precondition(lambda self: self.world.armed is not None)
    @rule(budget=budgets)
    def time_is_up(self, budget: int | None) -> None:
        run, self.world.armed = self.world.armed, None
        assert run is not None
        self.attempt(lambda: Rollout(self.host).revert(run, unless_committed=True), budget)
        if budget is not None:  # systemd runs a revert that failed again
            Rollout(self.host).revert(run, unless_committed=True)

    @invariant()
    def sound(self) -> None:
        assert violations(self.host.store.read()) == []

    @invariant()
    def somebody_answers(self) -> None:
        if not self.in_place:
            assert self.world.answered or not self.world.effects

    @invariant()
    def an_open_rollout_ends_by_itself(self) -> None:
        opened = self.host.store.read().open
        if opened is not None and opened.phase != "reverting":
            assert self.world.armed == opened.run

    @invariant()
    def only_what_served_is_known_good(self) -> None:
        state = self.host.store.read()
        if state.open is None:
            assert state.known_good == state.serving

    def teardown(self) -> None:
        state = self.host.store.read()
        ended = state.open
        Rollout(self.host).recover()
        run = state.transaction.run if state.transaction is not None else "none"
        Rollout(self.host).revert(run, unless_committed=True)
        if state.transaction is not None and state.transaction.phase == "committed":
            Rollout(self.host).commit(run)
        state = self.host.store.read()
        assert state.open is None
        if ended is not None:
            assert state.serving == ended.previous.content
        active = state.active
        assert active is not None
        assert self.world.answered
        for slot, yes in ((active, True), (other(active), False)):
            assert self.world.running[slot] is yes
            assert self.world.enabled[slot] is yes
            assert self.world.admin[slot] == ("ready" if yes else "maint")
        assert (self.home / "releases" / "current").readlink().name == state.serving.release  # type: ignore[union-attr]
        shutil.rmtree(self.home)


TestHost = Host.TestCase
TestHost.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
