from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestrator.client.routing.breaker import Breaker, BreakerRule, Permit, State

RULE = BreakerRule(failures=3, open_s=10, longest_open_s=40)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(RULE)
    for _ in range(3):
        breaker, permit = breaker.take(now)
        assert permit is not None
        breaker = breaker.failed(permit, now)
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = Breaker(RULE)
    for outcome in (False, False, True, False, False):
        breaker, permit = breaker.take(0)
        assert permit is not None
        breaker = breaker.succeeded(permit) if outcome else breaker.failed(permit, 0)
    assert breaker.state(0) is State.CLOSED
    assert opened().state(0) is State.OPEN
    assert opened().take(9.9)[1] is None


def test_one_probe_decides() -> None:
    breaker, probe = opened().take(10)
    assert probe == Permit(1, probe=True)
    assert breaker.take(10)[1] is None, "one at a time"
    assert breaker.succeeded(probe).state(10) is State.CLOSED
    again = breaker.failed(probe, 10)
    assert again.reopens_in(10) == 20
    assert again.state(29.9) is State.OPEN


def test_it_opens_for_longer_and_longer_up_to_the_bound() -> None:
    breaker, now, waits = opened(), 0.0, []
    for _ in range(4):
        waits.append(breaker.reopens_in(now))
        now += waits[-1]
        breaker, probe = breaker.take(now)
        assert probe is not None
        breaker = breaker.failed(probe, now)
    assert waits == [10, 20, 40, 40]


def test_a_probe_that_is_given_up_makes_place_for_another() -> None:
    breaker, probe = opened().take(10)
    assert probe is not None
    assert breaker.given_up(probe).take(10)[1] is not None


def test_what_was_begun_before_says_nothing_afterwards() -> None:
    breaker = Breaker(RULE)
    breaker, late = breaker.take(0)
    assert late is not None
    after = opened()
    assert after.succeeded(late) is after
    assert after.failed(late, 50) is after


def test_forced_success_closes_and_forced_failure_changes_nothing() -> None:
    breaker = opened()
    assert breaker.succeeded(breaker.force()).state(0) is State.CLOSED
    assert breaker.failed(breaker.force(), 1) == breaker


class Machine(RuleBasedStateMachine):
    """Any order of calls, with results that come back late."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(RULE)
        self.now = 0.0
        self.under_way: list[Permit] = []
        self.row = 0

    @rule(seconds=st.floats(0, 60))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        allowed = self.breaker.allows(self.now)
        self.breaker, permit = self.breaker.take(self.now)
        assert (permit is not None) == allowed
        if permit is not None:
            self.under_way.append(permit)

    @rule()
    def force(self) -> None:
        self.under_way.append(self.breaker.force())

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), outcome=st.sampled_from(["succeeded", "failed", "given up"]))
    def end(self, data: st.DataObject, outcome: str) -> None:
        permit = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        before = self.breaker
        current = permit.epoch == before.epoch
        if outcome == "succeeded":
            self.breaker = before.succeeded(permit)
            if current:
                assert self.breaker.state(self.now) is State.CLOSED
                self.row = 0
        elif outcome == "failed":
            self.breaker = before.failed(permit, self.now)
            if current and before.opened_at is None:
                self.row += 1
                assert (self.breaker.state(self.now) is State.OPEN) == (self.row >= RULE.failures)
            elif current and permit.probe:
                assert self.breaker.state(self.now) is State.OPEN
                assert self.breaker.open_s >= before.open_s
        else:
            self.breaker = before.given_up(permit)
            assert self.breaker.opened_at == before.opened_at
        if not current:
            assert self.breaker is before
        if self.breaker.epoch != before.epoch:
            self.row = 0

    @invariant()
    def at_most_one_probe(self) -> None:
        probes = [one for one in self.under_way if one.probe and one.epoch == self.breaker.epoch]
        assert len(probes) <= 1
        assert self.breaker.probing == bool(probes)

    @invariant()
    def bounded(self) -> None:
        assert 0 <= self.breaker.reopens_in(self.now) <= RULE.longest_open_s
        assert self.breaker.failures < RULE.failures
        assert self.breaker.epoch >= 0

    @invariant()
    def never_stuck(self) -> None:
        """Once nothing is under way, time alone brings it back."""
        if not any(one.probe for one in self.under_way):
            assert self.breaker.allows(self.now + RULE.longest_open_s)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40)
