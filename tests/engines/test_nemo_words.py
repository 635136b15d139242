from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engines.nemo_words import (
    TokenBatch,
    Vocabulary,
    ctc_tokens,
    first_of_recording,
    transducer_tokens,
    words,
)

# <unk> is 0; the last two are the UTF-8 bytes of e with acute accent.
PIECES = (
    *("<unk>", "\u2581", "\u2581a", "\u2581be", "ll", "o", "'s", "\u2581'em", "<s>"),
    *(".", ",", "?", "\u2581-", "<0xC3>", "<0xA9>"),
)
MARKS = frozenset(".,?'-")
VOCABULARY = Vocabulary(PIECES, marks=MARKS, unknown=[0], control=[8])
BLANK = len(PIECES)
FRAME_MS = 80.0

token_ids = st.lists(st.integers(0, len(PIECES) - 1), max_size=30)


def ids_of(*pieces: str) -> list[int]:
    return [PIECES.index(piece) for piece in pieces]


def transducer(
    ids: list[int], frames: list[int], durations: list[int] | None, confidence: list[float] | None = None
) -> TokenBatch:
    return transducer_tokens(
        np.array([len(ids)]),
        np.array(ids, dtype=np.int64),
        np.array(frames, dtype=np.int64),
        None if durations is None else np.array(durations, dtype=np.int64),
        np.array(confidence or [0.5] * len(ids), dtype=np.float32),
        VOCABULARY,
    )


def spoken(tokens: TokenBatch) -> list[tuple[str, int, int]]:
    return [(w.text, w.start_ms, w.end_ms) for w in words(tokens, VOCABULARY, FRAME_MS)[0]]


def reference_text(ids: list[int]) -> str:
    """What SentencePiece and then NeMo's removal of spaces before marks make of ``ids``, spaces collapsed."""
    text = "".join(VOCABULARY.surfaces(ids)).lstrip()
    return " ".join(re.sub(r"(\s)([.,?'-])", r"\2", text).split())


class TestTimes:
    def test_tdt_words_run_from_the_first_tokens_frame_to_the_last_ones_duration(self) -> None:
        tokens = transducer(ids_of("\u2581a", "\u2581be", "ll", "o"), [2, 5, 7, 8], [3, 2, 1, 4])
        assert spoken(tokens) == [("a", 160, 400), ("bello", 400, 960)]

    def test_tdt_marks_stand_at_the_end_of_the_token_before_and_take_no_time(self) -> None:
        tokens = transducer(ids_of("\u2581a", ".", "?", "\u2581be"), [1, 20, 30, 31], [2, 4, 1, 1])
        assert spoken(tokens) == [("a.?", 80, 240), ("be", 2480, 2560)]

    def test_a_mark_that_opens_a_recording_keeps_its_own_time(self) -> None:
        tokens = transducer(ids_of(".", "\u2581a"), [3, 6], [2, 1])
        assert spoken(tokens) == [(".", 240, 400), ("a", 480, 560)]

    def test_a_mark_that_opens_a_recording_does_not_take_the_recordings_end_before(self) -> None:
        ids = np.array(ids_of("\u2581a", ".", "\u2581be"))
        frames, durations = np.array([9, 1, 2]), np.array([1, 1, 1])
        confidence = np.full(3, 0.5, dtype=np.float32)
        tokens = transducer_tokens(np.array([1, 2]), ids, frames, durations, confidence, VOCABULARY)
        assert [[w.start_ms for w in row] for row in words(tokens, VOCABULARY, FRAME_MS)] == [
            [720],
            [80, 160],
        ]

    def test_rnnt_tokens_last_one_frame_and_marks_are_tokens_like_others(self) -> None:
        tokens = transducer(ids_of("\u2581a", "."), [1, 20], None)
        assert spoken(tokens) == [("a.", 80, 1680)]

    def test_ctc_folds_repeats_and_starts_a_token_where_the_one_before_began(self) -> None:
        a, be, o = ids_of("\u2581a", "\u2581be", "o")
        labels = np.array([[BLANK, a, a, BLANK, be, o, BLANK, o, a]])
        confidence = np.array([[0, 0.2, 0.4, 0, 0.9, 0.6, 0, 0.3, 1]], dtype=np.float32)
        tokens = ctc_tokens(labels, confidence, np.array([8]), BLANK, VOCABULARY)
        found = words(tokens, VOCABULARY, FRAME_MS)[0]
        assert [(w.text, w.start_ms, w.end_ms) for w in found] == [("a", 0, 80), ("beoo", 80, 560)]
        assert [w.confidence for w in found] == pytest.approx([0.3, 0.6])

    def test_ctc_tokens_that_open_with_a_mark_take_no_time(self) -> None:
        labels = np.array([ids_of("\u2581a", "'s", "\u2581a")])
        tokens = ctc_tokens(labels, np.ones((1, 3), dtype=np.float32), np.array([3]), BLANK, VOCABULARY)
        assert spoken(tokens) == [("a's", 0, 0), ("a", 80, 160)]


class TestWords:
    @pytest.mark.parametrize(
        ("pieces", "expected"),
        [
            (["\u2581", "o", "\u2581a"], [("o", 0, 2), ("a", 2, 3)]),  # a lone space starts the word after it
            (["\u2581", "\u2581a"], [("a", 1, 2)]),  # of two spaces the nearer one does
            (["\u2581a", "\u2581"], [("a", 0, 1)]),  # a space that nothing follows is no word
            (["\u2581a", "\u2581'em"], [("a'em", 0, 2)]),  # no space before a mark: one word, as in the text
            (["\u2581a", "<unk>", "o"], [("a", 0, 1), ("\u2047", 1, 2), ("o", 2, 3)]),
            (["\u2581a", "<0xC3>", "<0xA9>", "o"], [("a\u00e9o", 0, 4)]),
            (["<s>", "\u2581a"], [("a", 1, 2)]),
            (["<0xC3>"], [("\ufffd", 0, 1)]),
        ],
    )
    def test_pieces_make_words(self, pieces: list[str], expected: list[tuple[str, int, int]]) -> None:
        ids = ids_of(*pieces)
        tokens = transducer(ids, list(range(len(ids))), None)
        found = words(tokens, VOCABULARY, 1.0)[0]
        assert [(w.text, w.start_ms, w.end_ms) for w in found] == expected

    def test_without_marks_in_the_vocabulary_spaces_alone_separate(self) -> None:
        vocabulary = Vocabulary(["\u2581it", "\u2581'em"])
        tokens = transducer_tokens(
            np.array([2]), np.array([0, 1]), np.array([0, 1]), None, np.ones(2, dtype=np.float32), vocabulary
        )
        assert [w.text for w in words(tokens, vocabulary, 1.0)[0]] == ["it", "'em"]

    def test_confidence_is_the_mean_of_the_tokens(self) -> None:
        tokens = transducer(
            ids_of("\u2581be", "ll", ".", "\u2581a"), [0, 1, 2, 3], None, [0.9, 0.3, 0.6, 0.2]
        )
        assert [w.confidence for w in words(tokens, VOCABULARY, 1.0)[0]] == pytest.approx([0.6, 0.2])

    def test_capitals_and_marks_pass_through(self) -> None:
        vocabulary = Vocabulary(["\u2581Hello", ",", "\u2581W", "orld", "!"], marks=",!")
        ids = np.arange(5)
        tokens = transducer_tokens(
            np.array([5]), ids, ids, np.ones(5, dtype=np.int64), np.ones(5, dtype=np.float32), vocabulary
        )
        assert [w.text for w in words(tokens, vocabulary, 1.0)[0]] == ["Hello,", "World!"]

    @given(token_ids)
    def test_the_words_joined_are_the_text(self, ids: list[int]) -> None:
        tokens = transducer(ids, list(range(len(ids))), [1] * len(ids))
        assert " ".join(w.text for w in words(tokens, VOCABULARY, FRAME_MS)[0]) == reference_text(ids)

    @given(token_ids, st.data())
    def test_times_never_go_back_and_confidences_stay_in_range(
        self, ids: list[int], data: st.DataObject
    ) -> None:
        durations = data.draw(st.lists(st.integers(0, 4), min_size=len(ids), max_size=len(ids)))
        gaps = data.draw(st.lists(st.integers(0, 3), min_size=len(ids), max_size=len(ids)))
        confidence = data.draw(st.lists(st.floats(0, 1, width=32), min_size=len(ids), max_size=len(ids)))
        frames = list(itertools.accumulate(map(int.__add__, durations, gaps), initial=0))[:-1]
        found = words(transducer(ids, frames, durations, confidence), VOCABULARY, FRAME_MS)[0]
        assert all(w.start_ms <= w.end_ms and 0 <= w.confidence <= 1 for w in found)
        assert all(a.start_ms <= b.start_ms for a, b in itertools.pairwise(found))

    @given(st.lists(token_ids, max_size=6))
    def test_each_recording_of_a_batch_is_as_if_alone(self, batch: list[list[int]]) -> None:
        def tokens_of(rows: list[list[int]]) -> TokenBatch:
            ids = np.array(list(itertools.chain(*rows)), dtype=np.int64)
            frames = np.array([2 * i for row in rows for i in range(len(row))], dtype=np.int64)
            counts = np.array([len(row) for row in rows], dtype=np.int64)
            confidence = ((ids + 1) / (len(PIECES) + 1)).astype(np.float32)
            return transducer_tokens(counts, ids, frames, ids % 3, confidence, VOCABULARY)

        together = words(tokens_of(batch), VOCABULARY, FRAME_MS)
        assert together == [words(tokens_of([row]), VOCABULARY, FRAME_MS)[0] for row in batch]


def words_of_one(tokens: TokenBatch, row: slice) -> list[tuple[str, int, int, float]]:
    """Each word by itself, from the characters that its tokens stand for."""
    surfaces = VOCABULARY.surfaces(tokens.ids[row].tolist())
    owner = [token for token, surface in enumerate(surfaces) for _ in surface]
    text = "".join(surfaces)
    found: list[tuple[str, int, int, float]] = []
    used, latest = -1, 0
    for begin, stop in VOCABULARY.word_spans(text):
        last = owner[stop - 1]
        first = owner[max(begin - 1, 0)]
        if first <= used:
            first = owner[begin]
        used = last
        latest = max(latest, int(tokens.start[row][first]))
        end = max(latest, int(tokens.end[row][last]))
        confidence = float(np.mean(tokens.confidence[row][first : last + 1], dtype=np.float64))
        word = "".join(text[begin:stop].split())
        found.append((word, round(latest * FRAME_MS), round(end * FRAME_MS), confidence))
    return found


@given(st.lists(token_ids, max_size=6), st.data())
def test_one_pass_over_a_batch_equals_a_loop_over_its_words(
    batch: list[list[int]], data: st.DataObject
) -> None:
    ids = np.array(list(itertools.chain(*batch)), dtype=np.int64)
    numbers = st.lists(st.integers(0, 60), min_size=ids.size, max_size=ids.size)
    start = np.array(data.draw(numbers), dtype=np.int64)
    end = start + np.array(data.draw(numbers), dtype=np.int64)
    shares = st.lists(st.floats(0, 1, width=32), min_size=ids.size, max_size=ids.size)
    confidence = np.array(data.draw(shares), dtype=np.float32)
    tokens = TokenBatch(np.array([len(row) for row in batch], dtype=np.int64), ids, start, end, confidence)
    found = words(tokens, VOCABULARY, FRAME_MS)
    assert len(found) == len(batch)
    for have, row in zip(found, tokens.rows(), strict=True):
        want = words_of_one(tokens, row)
        assert [(w.text, w.start_ms, w.end_ms) for w in have] == [entry[:3] for entry in want]
        assert [w.confidence for w in have] == pytest.approx([entry[3] for entry in want], abs=1e-12)


@given(st.lists(st.lists(st.integers(0, BLANK), min_size=8, max_size=8), min_size=1, max_size=5), st.data())
def test_ctc_matches_the_textbook_loop(labels: list[list[int]], data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(0, 8), min_size=len(labels), max_size=len(labels)))
    confidence = np.linspace(0, 1, len(labels) * 8, dtype=np.float32).reshape(-1, 8)
    tokens = ctc_tokens(np.array(labels), confidence, np.array(lengths), BLANK, VOCABULARY)
    for index, row in enumerate(tokens.rows()):
        ids, frames, runs = [], [], []
        previous = BLANK
        for frame, label in enumerate(labels[index][: lengths[index]]):
            if label != BLANK:
                if label != previous:
                    ids.append(label)
                    frames.append(frame)
                    runs.append([])
                runs[-1].append(confidence[index, frame])
            previous = label
        assert tokens.ids[row].tolist() == ids
        assert tokens.confidence[row].tolist() == pytest.approx([np.mean(run) for run in runs])
        if frames:
            assert tokens.start[row].tolist() == [max(0, frames[0] - 1), *frames[:-1]]


@given(st.lists(st.integers(0, 3), max_size=8))
def test_first_of_recording(counts: list[int]) -> None:
    expected = [i == 0 for count in counts for i in range(count)]
    assert first_of_recording(np.array(counts, dtype=np.int64)).tolist() == expected
