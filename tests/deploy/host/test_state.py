"""The transitions alone: any sequence of steps keeps the way back and never has two known goods."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.deploy.host import state as states
from orchestrator.deploy.host.state import Content, HostState, from_dict, violations
from orchestrator.errors import HostStateError, TransitionError

CONTENTS = [Content(letter * 64, f"env{letter}", "cfg") for letter in "abc"]
RUNS = ["r1", "r2"]
STEPS = st.one_of(
    st.tuples(
        st.just("begun"), st.sampled_from(RUNS), st.sampled_from(CONTENTS), st.sampled_from(states.MODES)
    ),
    st.tuples(st.just("started"), st.sampled_from(states.SLOTS)),
    st.tuples(st.just("gated"), st.sampled_from(RUNS)),
    st.tuples(st.just("switched"), st.sampled_from(states.SLOTS)),
    st.tuples(st.just("committed"), st.sampled_from(RUNS)),
    st.tuples(st.just("reverting")),
    st.tuples(st.just("reverted")),
)


def step(state: HostState, name: str, *arguments: Any) -> HostState:
    extra: dict[str, tuple[Any, ...]] = {"begun": ("why",), "committed": ("now",), "reverted": ("now",)}
    result = getattr(states, name)(state, *arguments, *extra.get(name, ()))
    assert isinstance(result, HostState)
    return result


def reached(state: HostState, *names: str, run: str = "r1", content: Content = CONTENTS[0]) -> HostState:
    for name in names:
        arguments: dict[str, tuple[Any, ...]] = {"begun": (run, content, "blue_green"), "reverting": ()}
        arguments |= {"gated": (run,), "committed": (run,), "reverted": ()}
        slot = state.transaction.slot if state.transaction else "blue"
        state = step(state, name, *arguments.get(name, (slot,)))
    return state


@given(st.lists(STEPS, max_size=40))
def test_any_sequence_of_steps_keeps_the_state_sound(steps: list[tuple[Any, ...]]) -> None:
    state = HostState()
    for name, *arguments in steps:
        before = state
        try:
            state = step(state, name, *arguments)
        except TransitionError:
            assert state is before
            continue
        assert violations(state) == []
        assert from_dict(state.to_dict()) == state
        if state.known_good != before.known_good:
            assert name in ("committed", "reverted")
        transaction = state.open
        if transaction is not None and transaction.previous.active is not None:
            assert state.slots[transaction.previous.active] == transaction.previous.content


@given(st.lists(STEPS, max_size=30))
def test_reverting_twice_is_reverting_once_and_restores_what_served(steps: list[tuple[Any, ...]]) -> None:
    state = HostState()
    for name, *arguments in steps:
        try:
            state = step(state, name, *arguments)
        except TransitionError:
            continue
    if state.transaction is None or state.transaction.phase == "reverted":
        return
    once = states.reverted(states.reverting(state), "now")
    assert once.active == state.transaction.previous.active
    assert once.serving == state.transaction.previous.content
    assert once.known_good == state.transaction.previous.known_good
    assert states.reverted(once, "later") == once


def test_a_rollout_that_is_committed_is_the_known_good() -> None:
    state = reached(HostState(), "begun", "started", "gated", "switched", "committed")
    assert (state.active, state.known_good) == ("blue", CONTENTS[0])
    assert [entry.outcome for entry in state.history] == ["committed"]
    again = reached(
        state, "begun", "started", "gated", "switched", "committed", run="r2", content=CONTENTS[1]
    )
    assert (again.active, again.known_good, again.slots["blue"]) == ("green", CONTENTS[1], CONTENTS[0])


@pytest.mark.parametrize("names", [("switched",), ("begun", "gated"), ("begun", "started", "switched")])
def test_nothing_is_gated_before_its_start_or_switched_to_before_its_gate(names: tuple[str, ...]) -> None:
    with pytest.raises(TransitionError):
        reached(HostState(), *names)


@pytest.mark.parametrize("phase", [("begun",), ("begun", "started"), ("begun", "started", "gated")])
def test_what_does_not_serve_is_not_committed(phase: tuple[str, ...]) -> None:
    with pytest.raises(TransitionError):
        reached(HostState(), *phase, "committed")


def test_a_transaction_on_its_way_back_is_not_committed() -> None:
    state = reached(HostState(), "begun", "started", "gated", "switched", "reverting")
    with pytest.raises(TransitionError):
        states.committed(state, "r1", "now")
    with pytest.raises(TransitionError):
        states.switched(state, "blue")


def test_a_second_transaction_waits_for_the_first() -> None:
    with pytest.raises(TransitionError, match="r1"):
        states.begun(reached(HostState(), "begun"), "r2", CONTENTS[1], "blue_green", "")


def test_history_does_not_grow_for_ever() -> None:
    state = HostState()
    for number in range(states.HISTORY_MAX + 3):
        state = reached(state, "begun", "started", "gated", "switched", "committed", run=f"r{number}")
    assert len(state.history) == states.HISTORY_MAX
    assert state.history[-1].run == f"r{states.HISTORY_MAX + 2}"


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"active": "blue"},
        {"slots": {"blue": None}},
        {"history": [{"run": 1}]},
        {"transaction": {"run": "r"}},
    ],
)
def test_a_damaged_state_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(HostStateError):
        from_dict({**HostState().to_dict(), **change})
    with pytest.raises(HostStateError):
        from_dict([1])
