from __future__ import annotations

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.training.evaluate import Score, score, table, word_errors

texts = st.lists(st.sampled_from("abc"), max_size=7)


def by_definition(reference: list[str], hypothesis: list[str]) -> int:
    @cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        swap = distance(i - 1, j - 1) + (reference[i - 1] != hypothesis[j - 1])
        return min(swap, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(reference), len(hypothesis))


@given(texts, texts)
def test_word_errors_follow_the_definition(reference, hypothesis):
    assert word_errors(reference, hypothesis) == by_definition(reference, hypothesis)


def test_score_counts_words_errors_and_exact_recordings():
    one = score("set", ["call anna now", "stop"], ["call anna", "stop"])
    assert one == Score("set", 2, 4, 1, 1)
    assert one.wer == 0.25


def test_table_has_a_row_a_set_and_no_rate_without_words():
    rows = table([Score("speech", 2, 4, 1, 1), Score("noise", 3, 0, 2, 2)]).splitlines()
    assert rows[2] == "| speech | 2 | 4 | 1 | 25.0% | 1/2 |"
    assert rows[3] == "| noise | 3 | 0 | 2 | - | 2/3 |"
