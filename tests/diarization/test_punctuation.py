"""Changes of speaker that move to punctuation: examples for each rule, brute force, then invariants."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.diarization.base import SpeakerTurn
from orchestrator.diarization.labels import MOVED_CONFIDENCE
from orchestrator.diarization.punctuation import (
    CLAUSE_END,
    NO_MARK,
    SENTENCE_END,
    MarkRules,
    marks_after,
    move_changes,
)
from orchestrator.diarization.stitch import label_words, name_turns, stitch
from orchestrator.transcript.models import Transcript, Turn, Word

WORD_MS = 250
MARKS = {"-": NO_MARK, ",": CLAUSE_END, ".": SENTENCE_END}


def moved(
    speakers: str, marks: str, *, silent: str = "", word_ms: int = WORD_MS, rules: MarkRules | None = None
) -> str:
    """One letter a word: speakers ("?" is nobody), marks behind words, "|" for a silent gap before a word."""
    label = np.array([-1 if letter == "?" else ord(letter) - ord("a") for letter in speakers])
    silence = np.array([mark == "|" for mark in silent.ljust(len(speakers))])
    result = move_changes(
        label,
        np.full(len(speakers), word_ms),
        silence,
        np.array([MARKS[mark] for mark in marks]),
        rules or MarkRules(),
    )
    return "".join("?" if number < 0 else chr(number + ord("a")) for number in result.tolist())


@pytest.mark.parametrize(
    ("speakers", "marks", "wanted"),
    [
        ("aaaabbbb", "--.-----", "aaabbbbb"),  # back
        ("aaaabbbb", "-----.--", "aaaaaabb"),  # ahead
        ("aaaabbbb", "---.----", "aaaabbbb"),  # there already
        ("aaaabbbb", "--------", "aaaabbbb"),  # no mark
        ("aaaabbbb", "--.--.--", "aaabbbbb"),  # the nearer: one word back, two ahead
        ("aaaabbbb", "--.-.---", "aaabbbbb"),  # as near: the earlier
        ("aaaabbbb", "--,--.--", "aaaaaabb"),  # two words to a sentence end, one to a clause end
        ("aaaabbbb", "-,---.--", "aaaaaabb"),  # as near: the sentence end
        ("aaaabbbb", "--,-----", "aaabbbbb"),  # a clause end alone
        ("aaaabbbb", "--.,----", "aaabbbbb"),  # from a clause end to a sentence end a word away
    ],
)
def test_a_change_moves_to_the_cheapest_mark(speakers: str, marks: str, wanted: str) -> None:
    assert moved(speakers, marks) == wanted


def test_a_clause_end_stays_when_the_sentence_end_is_farther_than_its_price() -> None:
    # handing over 750 ms costs more than the 500 ms of a clause end
    assert moved("aaaaabbb", "-.--,---") == "aaaaabbb"


def test_a_mark_out_of_reach_in_time_or_words_is_none() -> None:
    marks = "-.------"  # three words before the change
    assert moved("aaaaabbb", marks, word_ms=400) == "aabbbbbb"
    assert moved("aaaaabbb", marks, word_ms=401) == "aaaaabbb"
    assert moved("aaaaabbb", marks, word_ms=10, rules=MarkRules(max_words=3)) == "aabbbbbb"
    assert moved("aaaaabbb", marks, word_ms=10, rules=MarkRules(max_words=2)) == "aaaaabbb"


def test_a_word_without_duration_or_left_open_counts_within_bounds() -> None:
    assert moved("aaaabbbb", "-.-.----", word_ms=0) == "aaaabbbb"
    assert moved("aaaabbbb", "--.-----", word_ms=60_000) == "aaabbbbb"


def test_a_change_may_move_to_a_gap() -> None:
    assert moved("aaaabbbb", "--.-----", silent="   |    ") == "aaabbbbb"
    assert moved("aaaabbbb", "-----.--", silent="      | ") == "aaaaaabb"


def test_a_change_does_not_cross_a_silent_gap() -> None:
    assert moved("aaaabbbb", "-.------", silent="   |    ") == "aaaabbbb"
    assert moved("aaaabbbb", "-----.--", silent="     |  ") == "aaaabbbb"


def test_a_change_may_leave_the_gap_it_lies_in() -> None:
    assert moved("aaaabbbb", "--.-----", silent="    |   ") == "aaabbbbb"


def test_changes_to_and_from_nobody_stay_and_are_not_crossed() -> None:
    assert moved("aaa???bbb", "-.-----.-") == "aaa???bbb"
    assert moved("aa?bcc", ".-----") == "aa?bcc"


def test_a_turn_of_one_word_is_never_emptied() -> None:
    assert moved("aaaabaaa", "---.----") == "aaaabaaa"  # the second change has no mark of its own
    assert moved("aaaabaaa", "---..---") == "aaaabaaa"  # "Yes." inside a line
    assert moved("aaaabaaa", "--..----") == "aaabaaaa"  # it takes the sentence before, not nothing
    assert moved("abab", "...-") == "abab"


def test_three_turns_in_one_line_find_their_three_sentences() -> None:
    assert moved("aaaaabbbbccc", "---.---.----") == "aaaabbbbcccc"
    # both changes are nearest to the second mark: together they take one each
    assert moved("aaaaaabbcccc", "----.--.----", word_ms=100) == "aaaaabbbcccc"
    assert moved("aaaaaabccccc", "---.---.----", word_ms=100) == "aaaabbbbcccc"


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("there.", SENTENCE_END),
        ("Hello?", SENTENCE_END),
        ("no!", SENTENCE_END),
        ('it."', SENTENCE_END),
        ("so…", SENTENCE_END),
        ("です。", SENTENCE_END),
        ("吗？", SENTENCE_END),
        ("好！」", SENTENCE_END),
        ("है।", SENTENCE_END),
        ("I.", SENTENCE_END),
        ("Jersey,", CLAUSE_END),
        ("this:", CLAUSE_END),
        ("that;", CLAUSE_END),
        ("はい、", CLAUSE_END),
        ("但，", CLAUSE_END),
        ("word", NO_MARK),
        ("M.", NO_MARK),
        ("U.S.", NO_MARK),
        ("Dr.", NO_MARK),
        ("3.5", NO_MARK),
        ("don't", NO_MARK),
        ('"', NO_MARK),
        ("", NO_MARK),
    ],
)
def test_marks(text: str, mark: int) -> None:
    assert marks_after([text]).tolist() == [mark]


@st.composite
def labelled(draw: st.DrawFn) -> tuple[list[int], list[int], list[bool], list[int]]:
    size = draw(st.integers(0, 7))

    def column(values: st.SearchStrategy[int]) -> list[int]:
        return draw(st.lists(values, min_size=size, max_size=size))

    speakers = column(st.sampled_from([-1, 0, 0, 1, 1, 2]))
    return (
        speakers,
        column(st.integers(0, 900)),
        [bool(x) for x in column(st.integers(0, 1))],
        column(st.integers(0, 2)),
    )


@settings(max_examples=200, deadline=None)
@given(labelled())
def test_it_agrees_with_brute_force(sample: tuple[list[int], list[int], list[bool], list[int]]) -> None:
    speakers, durations, silent, marks = sample
    rules = MarkRules(max_words=2)
    fast = move_changes(
        np.array(speakers, dtype=np.int64), np.array(durations), np.array(silent), np.array(marks), rules
    )
    assert fast.tolist() == slow(speakers, durations, silent, marks, rules)


def slow(
    speakers: list[int], durations: list[int], silent: list[bool], marks: list[int], rules: MarkRules
) -> list[int]:
    """Every way to place all changes; the cheapest."""
    size = len(speakers)
    changes = [i for i in range(1, size) if speakers[i] != speakers[i - 1]]
    options = []
    for change in changes:
        places = {}
        for place in range(1, size):
            low, high = min(place, change), max(place, change)
            handed = sum(max(1, duration) for duration in durations[low:high])
            allowed = place == change or (
                high - low <= rules.max_words
                and handed <= rules.reach_ms
                and marks[place - 1] != NO_MARK
                and min(speakers[change - 1], speakers[change]) >= 0
                and not any(silent[low + 1 : high])
            )
            if allowed:
                places[place] = handed + (rules.reach_ms, rules.clause_ms, 0)[marks[place - 1]]
        options.append(places)
    ways = [way for way in itertools.product(*options) if all(a < b for a, b in itertools.pairwise(way))]
    # Of equal ways the one whose last change is earliest, then the one before it, and so on.
    best = min(ways, key=lambda way: (sum(o[p] for o, p in zip(options, way, strict=True)), way[::-1]))
    runs = [speakers[i] for i in [0, *changes]] if size else []
    bounds = itertools.pairwise([0, *best, size])
    return [run for run, (begin, end) in zip(runs, bounds, strict=False) for _ in range(begin, end)]


# --- through the transcript's types ---------------------------------------------------------------------


def line(text: str, start: float = 0.0, word_s: float = 0.25) -> list[Word]:
    return [
        Word(start=start + i * word_s, end=start + (i + 1) * word_s, text=word)
        for i, word in enumerate(text.split())
    ]


def test_only_estimated_times_move_and_say_how_sure_they_are() -> None:
    words = line("I did not know you were there. Neither did I. Then I thought so.")
    turns = [
        Turn(start=0, end=2.0, speaker="ann"),
        Turn(start=2.0, end=2.7, speaker="bob"),
        Turn(start=2.7, end=3.5, speaker="ann"),
    ]
    measured = [segment.text for segment in stitch(words, turns)]
    assert measured == ["I did not know you were there. Neither", "did I. Then", "I thought so."]
    estimated = stitch(words, turns, times_estimated=True)
    assert [(segment.speaker, segment.text) for segment in estimated] == [
        ("ann", "I did not know you were there."),
        ("bob", "Neither did I."),
        ("ann", "Then I thought so."),
    ]
    sure = {word.text: word.speaker_confidence for segment in estimated for word in segment.words}
    assert (sure["Neither"], sure["Then"]) == (MOVED_CONFIDENCE, MOVED_CONFIDENCE)
    assert (sure["know"], sure["did"]) == (1.0, 1.0)


def test_a_pause_under_a_turn_is_no_silent_gap() -> None:
    words = [*line("it was fine. And"), *line("then they went", start=1.4)]

    def texts(first_end: float) -> list[str]:
        turns = [Turn(start=0, end=first_end, speaker="ann"), Turn(start=1.75, end=3.0, speaker="bob")]
        return [segment.text for segment in stitch(words, turns, times_estimated=True)]

    assert texts(1.75) == ["it was fine.", "And then they went"]
    assert texts(1.3) == ["it was fine. And then", "they went"]


def test_silence_before_the_line_is_no_gap_inside_it() -> None:
    words = line("it was fine. And then they went", start=10)
    turns = [Turn(start=10, end=11.25, speaker="ann"), Turn(start=11.25, end=12, speaker="bob")]
    texts = [segment.text for segment in stitch(words, turns, times_estimated=True)]
    assert texts == ["it was fine.", "And then they went"]


def test_speakers_are_named_in_the_order_of_the_turns_not_of_the_words() -> None:
    turns = name_turns([SpeakerTurn(0, 400, 0), SpeakerTurn(1000, 2000, 1)])
    segments = stitch(line("Hello there.", start=1.0), turns, times_estimated=True)
    transcript = Transcript(duration=2, segments=segments, turns=turns)
    assert transcript.speakers == ("SPEAKER_00", "SPEAKER_01")
    assert [segment.speaker for segment in segments] == ["SPEAKER_01"]


def test_estimated_labels_of_nothing() -> None:
    assert label_words([], [], times_estimated=True) == ()
    (alone,) = label_words(line("Hello."), [], times_estimated=True)
    assert alone.speaker is None
