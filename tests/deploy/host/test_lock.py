from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.deploy.host.lock import Lock, acquired, refuse_other
from orchestrator.errors import HostLockedError

LOCKS = st.builds(
    Lock,
    owner=st.just("ada"),
    run=st.sampled_from(["r1", "r2", "r3"]),
    pid=st.just(1),
    acquired=st.floats(0, 100),
    expires=st.floats(0, 200),
)


@given(st.lists(LOCKS, max_size=20))
def test_a_lock_changes_hands_only_when_it_has_expired(wishes: list[Lock]) -> None:
    held: Lock | None = None
    for wish in sorted(wishes, key=lambda wish: wish.acquired):
        before = held
        try:
            held = acquired(held, wish)
        except HostLockedError:
            assert before is not None
            assert before.run != wish.run
            assert before.expires > wish.acquired
            continue
        assert held.run == wish.run
        if before is not None and before.run != wish.run:
            assert before.expires <= wish.acquired


def test_the_same_run_comes_in_again_and_keeps_its_beginning() -> None:
    first = Lock("ada", "r1", 1, 10.0, 20.0)
    again = acquired(first, Lock("ada", "r1", 2, 15.0, 30.0))
    assert (again.acquired, again.expires, again.pid) == (10.0, 30.0, 2)


def test_force_takes_it() -> None:
    held = Lock("ada", "r1", 1, 10.0, 20.0)
    assert acquired(held, Lock("bob", "r2", 2, 11.0, 30.0), force=True).owner == "bob"


def test_the_refusal_names_owner_process_and_end() -> None:
    with pytest.raises(HostLockedError, match=r"ada \(pid 1, run r1\).*1970-01-01 00:00:20 UTC") as refusal:
        refuse_other(Lock("ada", "r1", 1, 10.0, 20.0), "r2", 15.0)
    assert "5 s" in str(refusal.value.fix)
