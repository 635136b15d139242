"""What a host serves and the transaction that may be changing it: data and transitions, no I/O.

::

    begun -> started -> gated -> switched -> committed
      any of them, committed too -> reverting -> reverted

While a transaction is open (neither committed nor reverted), the slot that served before it keeps its
content: the way back is always there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from orchestrator.errors import HostStateError, TransitionError

SCHEMA: Final = 1
SLOTS: Final = ("blue", "green")
MODES: Final = ("blue_green", "in_place")
PHASES: Final = ("begun", "started", "gated", "switched", "committed", "reverting", "reverted")
HISTORY_MAX: Final = 50
"""Entries; older ones are forgotten."""


@dataclass(frozen=True)
class Content:
    """What a slot holds: ids of a release, of an environment (or image), and of the rendered settings."""

    release: str
    environment: str
    config: str


@dataclass(frozen=True)
class Previous:
    """What served before a transaction: where it goes back to."""

    active: str | None
    content: Content | None
    known_good: Content | None


@dataclass(frozen=True)
class Transaction:
    """A rollout on this host, under way or the last one.

    Attributes:
        run: the controller's run that made it.
        phase: one of `PHASES`.
        slot: the slot with the new content.
        mode: one of `MODES`.
        reason: why that mode.
        previous: what it goes back to.
    """

    run: str
    phase: str
    slot: str
    mode: str
    reason: str
    previous: Previous

    @property
    def open(self) -> bool:
        """Whether it still has to be committed or reverted."""
        return self.phase not in ("committed", "reverted")


@dataclass(frozen=True)
class Entry:
    """One end of a transaction; ``at`` is UTC, ``outcome`` is ``committed`` or ``reverted``."""

    run: str
    release: str
    environment: str
    config: str
    at: str
    outcome: str


@dataclass(frozen=True)
class HostState:
    """``state.json``."""

    active: str | None = None
    slots: Mapping[str, Content | None] = field(default_factory=lambda: dict.fromkeys(SLOTS))
    known_good: Content | None = None
    history: tuple[Entry, ...] = ()
    transaction: Transaction | None = None

    @property
    def serving(self) -> Content | None:
        """The content of the active slot."""
        return None if self.active is None else self.slots[self.active]

    @property
    def open(self) -> Transaction | None:
        """The transaction that still has to end."""
        return self.transaction if self.transaction is not None and self.transaction.open else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {"schema": SCHEMA, **asdict(self), "history": [asdict(entry) for entry in self.history]}


def from_dict(data: Any) -> HostState:
    """The state that `HostState.to_dict` gave.

    Raises:
        HostStateError: of another schema, or not such data.
    """
    try:
        if data["schema"] != SCHEMA:
            raise HostStateError(
                f"the host's state has schema {data['schema']!r}, this program knows {SCHEMA}",
                fix="deploy with the version that wrote it, or a newer one",
            )
        found = data["transaction"]
        transaction = None
        if found is not None:
            before = found["previous"]
            previous = Previous(before["active"], _content(before["content"]), _content(before["known_good"]))
            transaction = Transaction(**{**found, "previous": previous})
        state = HostState(
            data["active"],
            {slot: _content(data["slots"][slot]) for slot in SLOTS},
            _content(data["known_good"]),
            tuple(Entry(**entry) for entry in data["history"]),
            transaction,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise HostStateError(f"the host's state is damaged: {error!r}") from error
    faults = violations(state)
    if faults:
        raise HostStateError(f"the host's state contradicts itself: {'; '.join(faults)}")
    return state


def violations(state: HostState) -> list[str]:
    """What can never be true of a state that came about by the transitions below."""
    found = []
    if state.active is not None and state.slots.get(state.active) is None:
        found.append(f"the active slot {state.active} is empty")
    transaction = state.transaction
    if transaction is not None:
        if transaction.phase not in PHASES or transaction.mode not in MODES or transaction.slot not in SLOTS:
            found.append("the transaction has an unknown phase, mode or slot")
        previous = transaction.previous
        if previous.active == transaction.slot:
            found.append("the transaction overwrote what served before it")
        if previous.active is not None and state.slots.get(previous.active) != previous.content:
            found.append("the slot to go back to has other content")
        if transaction.phase == "committed" and (
            state.active != transaction.slot or state.known_good != state.serving
        ):
            found.append("the committed content does not serve")
        if transaction.phase == "reverted" and state.active != previous.active:
            found.append("the reverted content still serves")
    return found


def begun(state: HostState, run: str, content: Content, mode: str, reason: str) -> HostState:
    """A transaction is opened; its slot is the one that does not serve.

    Raises:
        TransitionError: another one is open.
    """
    if state.open is not None:
        raise TransitionError(
            f"run {state.open.run} is not finished ({state.open.phase})",
            fix=f"revert it first: revert --run {state.open.run}",
        )
    slot = other(state.active) if state.active is not None else SLOTS[0]
    previous = Previous(state.active, state.serving, state.known_good)
    return replace(
        state,
        slots={**state.slots, slot: content},
        transaction=Transaction(run, "begun", slot, mode, reason, previous),
    )


def started(state: HostState, slot: str) -> HostState:
    """The slot's services are ready.

    Raises:
        TransitionError: it is not the slot of an open transaction.
    """
    transaction = _open(state, slot)
    return _to(state, "started") if transaction.phase == "begun" else state


def gated(state: HostState, run: str) -> HostState:
    """The gate was passed.

    Raises:
        TransitionError: the run has no transaction here whose slot was started.
    """
    transaction = _of(state, run)
    _require(transaction, "started", "gated", "switched", verb="gate", first="start")
    return _to(state, "gated") if transaction.phase == "started" else state


def switched(state: HostState, slot: str) -> HostState:
    """The slot is the active one.

    Raises:
        TransitionError: it is not the slot of an open transaction that passed its gate.
    """
    transaction = _open(state, slot)
    _require(transaction, "gated", "switched", verb="switch", first="gate")
    return replace(_to(state, "switched"), active=slot)


def committed(state: HostState, run: str, at: str) -> HostState:
    """What serves is the known good; unchanged when it was committed before.

    Raises:
        TransitionError: the run has no transaction here that was switched.
    """
    transaction = state.transaction
    if transaction is not None and transaction.run == run and transaction.phase == "committed":
        return state
    transaction = _of(state, run)
    _require(transaction, "switched", verb="commit", first="switch")
    return _logged(replace(_to(state, "committed"), known_good=state.serving), at)


def reverting(state: HostState) -> HostState:
    """The last transaction is on its way back; it cannot be committed any more."""
    return state if state.transaction is None else _to(state, "reverting")


def reverted(state: HostState, at: str) -> HostState:
    """What served before the transaction serves again; its own slot counts as empty."""
    transaction = state.transaction
    if transaction is None or transaction.phase == "reverted":
        return state
    done = _logged(_to(state, "reverted"), at)
    return replace(
        done,
        active=transaction.previous.active,
        slots={**state.slots, transaction.slot: None},
        known_good=transaction.previous.known_good,
    )


def other(slot: str) -> str:
    """The other slot."""
    return SLOTS[1 - SLOTS.index(slot)]


def _content(data: Any) -> Content | None:
    return None if data is None else Content(**data)


def _to(state: HostState, phase: str) -> HostState:
    if state.transaction is None:
        return state
    return replace(state, transaction=replace(state.transaction, phase=phase))


def _logged(state: HostState, at: str) -> HostState:
    transaction = state.transaction
    content = None if transaction is None else state.slots[transaction.slot]
    if transaction is None or content is None:
        return state
    entry = Entry(transaction.run, **asdict(content), at=at, outcome=transaction.phase)
    return replace(state, history=(*state.history, entry)[-HISTORY_MAX:])


def _open(state: HostState, slot: str) -> Transaction:
    transaction = state.open
    if transaction is None or transaction.slot != slot or transaction.phase == "reverting":
        raise TransitionError(f"no rollout into slot {slot} is under way", fix="open one with begin")
    return transaction


def _of(state: HostState, run: str) -> Transaction:
    transaction = state.transaction
    if transaction is None or transaction.run != run:
        raise TransitionError(f"run {run} has no rollout on this host", fix="look at status")
    return transaction


def _require(transaction: Transaction, *phases: str, verb: str, first: str) -> None:
    if transaction.phase not in phases:
        raise TransitionError(
            f"run {transaction.run} is {transaction.phase}: it is too early or too late to {verb}",
            fix=f"{first} comes before {verb}"
            if transaction.open
            else "begin a new run, with a larger spark_speech_confirm_s if it went back by itself",
        )
