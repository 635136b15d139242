from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engines.speech_gate import Piece
from orchestrator.engines.spread import spread

runs_of_sound = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 200)), min_size=1, max_size=5)


def piece_of(plan: list[tuple[int, int]]) -> Piece:
    runs, at = [], 0
    for gap, length in plan:
        at += gap
        runs.append((at, at + length))
        at += length
    return Piece(tuple(runs))


@given(st.lists(st.text("abcde',.", min_size=1, max_size=12), max_size=30), runs_of_sound)
def test_spread_keeps_text_order_and_stays_inside_the_sound(
    words: list[str], plan: list[tuple[int, int]]
) -> None:
    piece = piece_of(plan)
    result = list(spread(words, piece))
    assert [word.text for word in result] == words
    assert all(word.start_ms <= word.end_ms for word in result)
    assert all(before.end_ms <= after.start_ms for before, after in pairwise(result))
    for word in result:
        assert any(a * 20 <= word.start_ms and word.end_ms <= b * 20 for a, b in piece.runs)


def test_spread_is_in_proportion_to_letters_and_leaves_pauses_out() -> None:
    halves = list(spread(["abcd", "abcd"], Piece(((0, 50), (100, 150)))))
    assert [(word.start_ms, word.end_ms) for word in halves] == [(0, 1000), (2000, 3000)]
    marked = list(spread(["ab,", "abcd", "ab"], Piece(((0, 50), (100, 150)))))
    assert [(word.start_ms, word.end_ms) for word in marked] == [(0, 1000), (2000, 2667), (2667, 3000)]
    uneven = list(spread(["a,", "abc"], Piece(((0, 100),))))
    assert [(word.start_ms, word.end_ms) for word in uneven] == [(0, 500), (500, 2000)]
