from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.diarization.base import Diarization, SpeakerTurn
from orchestrator.diarization.labels import NO_SPEAKER
from orchestrator.diarization.online import OnlineOptions, OnlineSpeakers, OnlineUpdate
from orchestrator.errors import InferenceError

DIMENSIONS = 6


def voice(number: int, *, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """A person's embedding: an axis of their own, and some noise."""
    row = np.eye(DIMENSIONS)[number] * 3.0
    return row + noise * np.random.default_rng(seed).normal(size=DIMENSIONS)


def between(one: int, other: int, share: float) -> np.ndarray:
    """Somebody who sounds like both."""
    return (1 - share) * voice(one) + share * voice(other)


@dataclass(frozen=True)
class Said:
    """One turn in a window: times in the stream, and who it sounds like."""

    start_ms: int
    end_ms: int
    embedding: np.ndarray


def heard(turns: list[Said], window_ms: int) -> Diarization:
    local = tuple(
        SpeakerTurn(turn.start_ms - window_ms, turn.end_ms - window_ms, number)
        for number, turn in enumerate(turns)
    )
    rows = [turn.embedding for turn in turns]
    embeddings = np.array(rows, dtype=np.float32).reshape(len(rows), DIMENSIONS)
    return Diarization(local, local, embeddings)


def say(store: OnlineSpeakers, *turns: Said, context: list[Said] | None = None) -> OnlineUpdate:
    """A window whose new part begins with the first turn."""
    before = context or []
    window_ms = min(turn.start_ms for turn in (*before, *turns))
    return store.assign(
        heard([*before, *turns], window_ms),
        window_ms=window_ms,
        start_ms=min(turn.start_ms for turn in turns),
        end_ms=max(turn.end_ms for turn in turns),
    )


def labels(store: OnlineSpeakers) -> list[int]:
    return [turn.speaker for turn in store.turns()]


def test_people_keep_their_numbers() -> None:
    store = OnlineSpeakers()
    for index, person in enumerate([0, 1, 0, 2, 1, 0]):
        start = index * 3000
        say(store, Said(start, start + 2000, voice(person, noise=0.3, seed=index)))
    assert labels(store) == [0, 1, 0, 2, 1, 0]


def test_two_voices_of_one_window_are_two_people_however_alike() -> None:
    store = OnlineSpeakers()
    say(store, Said(0, 2000, voice(0)), Said(2000, 4000, voice(0, noise=0.1)))
    assert labels(store) == [0, 1]


def test_the_matching_of_a_window_is_the_best_for_all_its_voices() -> None:
    store = OnlineSpeakers()
    say(store, Said(0, 3000, voice(0)))
    say(store, Said(4000, 7000, voice(1)))
    # The first is a little nearer to 0 than the second is, but only the second cannot be 1.
    say(store, Said(8000, 10_000, between(0, 1, 0.48)), Said(10_000, 12_000, between(0, 1, 0.1)))
    assert labels(store) == [0, 1, 1, 0]


def test_a_short_unknown_voice_is_nobody_until_somebody_is_known_whom_it_matches() -> None:
    store = OnlineSpeakers()
    say(store, Said(0, 3000, voice(0)))
    say(store, Said(3500, 4000, voice(1, noise=0.2)))
    assert labels(store) == [0, NO_SPEAKER]
    update = say(store, Said(5000, 8000, voice(1)))
    assert labels(store) == [0, 1, 1]
    assert update.changed == ((3500, 4000),)


def test_the_first_voice_is_somebody_however_short() -> None:
    store = OnlineSpeakers()
    say(store, Said(0, 300, voice(0)))
    assert labels(store) == [0]


def test_a_voice_without_embedding_is_recognised_by_its_earlier_turns() -> None:
    store = OnlineSpeakers(OnlineOptions())
    say(store, Said(0, 3000, voice(0)))
    say(store, Said(3000, 6000, voice(1)))
    window = Diarization(
        turns=(SpeakerTurn(0, 3400, 0),),
        exclusive=(SpeakerTurn(0, 3400, 0),),
        embeddings=np.full((1, DIMENSIONS), np.nan, dtype=np.float32),
    )
    store.assign(window, window_ms=3000, start_ms=6000, end_ms=6400)
    assert labels(store) == [0, 1]
    assert store.turns()[1] == SpeakerTurn(3000, 6400, 1)  # the cut at the window's edge is gone


def test_context_links_a_voice_that_is_not_quite_near_enough() -> None:
    far = between(0, 2, 0.70)  # cosine 0.39 with 0
    alone, linked = OnlineSpeakers(), OnlineSpeakers()
    for store in (alone, linked):
        say(store, Said(0, 4000, voice(0)))
    say(alone, Said(4000, 7000, far))
    linked.assign(heard([Said(2000, 7000, far)], 2000), window_ms=2000, start_ms=4000, end_ms=7000)
    assert [turn.speaker for turn in alone.turns()] == [0, 1]
    assert {turn.speaker for turn in linked.turns()} == {0}


def test_two_numbers_of_one_person_become_one_within_the_horizon() -> None:
    store = OnlineSpeakers()
    say(store, Said(0, 2000, between(0, 2, 0.6)))
    say(store, Said(3000, 5000, between(0, 3, 0.6)))
    assert labels(store) == [0, 1]  # they begin with voices that have little in common
    changed = []
    for index in range(4):
        start = 6000 + index * 3000
        update = say(store, Said(start, start + 2500, voice(0)))
        changed += update.changed
    assert set(labels(store)) == {0}
    assert (3000, 5000) in changed


def test_joined_speakers_keep_the_older_number_and_what_is_frozen_stays() -> None:
    store = OnlineSpeakers(OnlineOptions(horizon_s=8))
    say(store, Said(0, 2000, between(0, 2, 0.6)))
    say(store, Said(3000, 5000, between(0, 3, 0.6)))
    for index in range(3):
        start = 20_000 + index * 3000
        say(store, Said(start, start + 2500, voice(0)))
    assert labels(store) == [0, 1, 0, 0, 0]
    say(store, Said(30_000, 32_000, between(0, 3, 0.45)))
    assert labels(store)[-1] == 1
    update = say(store, Said(33_000, 37_000, between(0, 3, 0.4)))  # now 1 sounds much like 0
    assert labels(store) == [0, 1, 0, 0, 0, 0, 0]
    assert update.changed == ((30_000, 32_000),)


def test_people_who_were_heard_in_one_window_are_never_joined() -> None:
    store = OnlineSpeakers(OnlineOptions(horizon_s=5))
    say(store, Said(0, 2000, voice(0)), Said(2000, 4000, between(0, 1, 0.2)))  # cosine 0.97
    for index in range(6):  # also once that window is frozen
        start = 5000 + index * 3000
        say(store, Said(start, start + 2000, between(0, 1, 0.2 * (index % 2))))
    assert labels(store) == [0, 1, 0, 1, 0, 1, 0, 1]


def test_no_more_speakers_than_allowed() -> None:
    store = OnlineSpeakers(OnlineOptions(max_speakers=2))
    for index, person in enumerate([0, 1, 2, 3]):
        say(store, Said(index * 3000, index * 3000 + 2000, voice(person) + 0.1 * voice(1)))
    assert labels(store) == [0, 1, 1, 1]


def test_nothing_behind_the_horizon_changes() -> None:
    def numbers(horizon_s: float) -> list[int]:
        store = OnlineSpeakers(OnlineOptions(horizon_s=horizon_s))
        say(store, Said(0, 3000, voice(0)))
        say(store, Said(3500, 4000, voice(1, noise=0.2)))
        say(store, Said(40_000, 43_000, voice(1)))
        return labels(store)

    assert numbers(horizon_s=60) == [0, 1, 1]
    assert numbers(horizon_s=30) == [0, NO_SPEAKER, 1]


def test_a_window_without_voices_moves_the_clock() -> None:
    store = OnlineSpeakers(OnlineOptions(horizon_s=10))
    nobody = Diarization((), (), np.zeros((0, DIMENSIONS), dtype=np.float32))
    update = store.assign(nobody, window_ms=20_000, start_ms=20_000, end_ms=30_000)
    assert update == OnlineUpdate(frozen_ms=20_000, changed=())
    assert store.turns() == ()


def test_a_part_of_the_stream() -> None:
    store = OnlineSpeakers(OnlineOptions(horizon_s=12))
    for index in range(10):
        say(store, Said(index * 3000, index * 3000 + 2000, voice(index % 2)))
    whole = store.turns()
    for begin, end in [
        (0, 1),
        (2000, 3000),
        (2500, 2600),
        (5500, 14_500),
        (13_000, 99_000),
        (50_000, 60_000),
    ]:
        part = store.turns(begin, end)
        assert part == tuple(turn for turn in whole if turn.end_ms >= begin and turn.start_ms <= end)
        assert part == store.exclusive(begin, end)


def test_a_replaced_diarizer_is_an_error() -> None:
    store = OnlineSpeakers()
    say(store, Said(0, 2000, voice(0)))
    other = Diarization((SpeakerTurn(0, 900, 0),), (), np.ones((1, 9), dtype=np.float32))
    with pytest.raises(InferenceError, match="9 values; this stream began with 6"):
        store.assign(other, window_ms=3000, start_ms=3000, end_ms=4000)


def test_time_does_not_go_back() -> None:
    store = OnlineSpeakers()
    say(store, Said(1000, 2000, voice(0)))
    with pytest.raises(ValueError, match="after one to 2000"):
        say(store, Said(1500, 3000, voice(0)))


def test_importing_it_needs_no_torch() -> None:
    code = (
        "import sys, orchestrator.diarization.online; print('torch' in sys.modules, 'scipy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


turn_plans = st.lists(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(200, 3000), st.floats(0, 1.2), st.integers(0, 2**16)),
        min_size=0,
        max_size=3,
    ),
    min_size=1,
    max_size=10,
)
"""Windows of turns: person, length, noise, seed of the noise."""


@dataclass(frozen=True)
class Step:
    found: Diarization
    window_ms: int
    start_ms: int
    end_ms: int


def steps(plan: list[list[tuple[int, int, float, int]]], shuffle: int | None = None) -> list[Step]:
    """Windows one after the other, each with the last turns of the one before as context."""
    made, now, context = [], 0, []
    rng = np.random.default_rng(shuffle)
    for turns in plan:
        start, said = now, []
        for person, length, noise, seed in turns:
            said.append(Said(now, now + length, voice(person, noise=noise, seed=seed)))
            now += length - min(100, length // 2)
        now = max([now, start + 500, *(turn.end_ms for turn in said)])
        window = context[-1:] + said
        begin = min([start, *(turn.start_ms for turn in window)])
        found = heard(window, begin)
        if shuffle is not None:
            found = renumbered(found, rng.permutation(len(window)))
        made.append(Step(found, begin, start, now))
        context = said
    return made


def renumbered(found: Diarization, order: np.ndarray) -> Diarization:
    def turns(old: tuple[SpeakerTurn, ...]) -> tuple[SpeakerTurn, ...]:
        return tuple(SpeakerTurn(t.start_ms, t.end_ms, int(order[t.speaker])) for t in reversed(old))

    rows = np.empty_like(found.embeddings)
    rows[order] = found.embeddings
    return Diarization(turns(found.turns), turns(found.exclusive), rows)


def at(store: OnlineSpeakers, until_ms: int) -> set[tuple[int, int]]:
    """Who speaks in each 10 ms before a time."""
    return {
        (moment, turn.speaker)
        for turn in store.turns()
        for moment in range(-(-turn.start_ms // 10) * 10, min(turn.end_ms, until_ms), 10)
    }


@settings(deadline=None, max_examples=60)
@given(turn_plans, st.sampled_from([0.0, 2.0, 6.0, 30.0]), st.integers(1, 5))
def test_labels_older_than_the_horizon_never_change_and_changes_are_told(
    plan: list[list[tuple[int, int, float, int]]], horizon_s: float, max_speakers: int
) -> None:
    store = OnlineSpeakers(OnlineOptions(horizon_s=horizon_s, max_speakers=max_speakers))
    frozen: set[tuple[int, int]] = set()
    for step in steps(plan):
        before, end_before = at(store, step.start_ms), store.end_ms
        update = store.assign(
            step.found, window_ms=step.window_ms, start_ms=step.start_ms, end_ms=step.end_ms
        )
        assert update.frozen_ms >= step.end_ms - horizon_s * 1000
        assert frozen <= at(store, update.frozen_ms)
        frozen = at(store, update.frozen_ms)
        assert frozen & before == {pair for pair in before if pair[0] < update.frozen_ms}
        moved = {moment for moment, _ in before ^ at(store, end_before)}
        assert all(any(a <= moment < b for a, b in update.changed) for moment in moved)
        assert all(a >= update.frozen_ms for a, _ in update.changed)
        numbers = {speaker for _, speaker in at(store, step.end_ms)} - {NO_SPEAKER}
        assert len(numbers) <= max_speakers or horizon_s < 30  # frozen numbers may be out of use
        exclusive = store.exclusive()
        assert {turn.speaker for turn in exclusive} <= {turn.speaker for turn in store.turns()}


@settings(deadline=None, max_examples=60)
@given(turn_plans, st.integers(0, 2**16))
def test_the_diarizers_numbering_does_not_matter(
    plan: list[list[tuple[int, int, float, int]]], shuffle: int
) -> None:
    one, other, again = OnlineSpeakers(), OnlineSpeakers(), OnlineSpeakers()
    for a, b in zip(steps(plan), steps(plan, shuffle), strict=True):
        told = [
            store.assign(s.found, window_ms=s.window_ms, start_ms=s.start_ms, end_ms=s.end_ms)
            for store, s in ((one, a), (other, b), (again, a))
        ]
        assert told[0] == told[1] == told[2]
        assert one.turns() == other.turns() == again.turns()


@settings(deadline=None, max_examples=40)
@given(turn_plans)
def test_voices_of_one_window_never_share_a_number(plan: list[list[tuple[int, int, float, int]]]) -> None:
    store = OnlineSpeakers()
    for step in steps(plan):
        store.assign(step.found, window_ms=step.window_ms, start_ms=step.start_ms, end_ms=step.end_ms)
        rows = [sorted({t.speaker for t in step.found.turns if t.end_ms + step.window_ms > step.start_ms})]
        named = [t.speaker for t in store.turns(step.start_ms, step.end_ms) if t.speaker != NO_SPEAKER]
        inside = [t for t in store.turns() if t.start_ms >= step.start_ms and t.speaker != NO_SPEAKER]
        assert len({t.speaker for t in inside}) == len(inside) <= len(rows[0])
        assert set(named) >= {t.speaker for t in inside}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=14), st.floats(0, 0.3), st.integers(0, 2**16))
def test_clear_voices_are_numbered_in_order_of_appearance(people: list[int], noise: float, seed: int) -> None:
    store = OnlineSpeakers(OnlineOptions(horizon_s=10))
    for index, person in enumerate(people):
        say(store, Said(index * 3000, index * 3000 + 2000, voice(person, noise=noise, seed=seed + index)))
    order = list(dict.fromkeys(people))
    assert labels(store) == [order.index(person) for person in people]
