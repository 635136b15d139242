"""The seam rule against a recogniser that is perfect but for what windows do to it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.client.seams import WindowWords, merge, normalise
from orchestrator.engines.base import RecognizedWord

VOCABULARY = [
    "the",
    "a",
    "of",
    "it",
    "was",
    "no",
    "best",
    "times",
    "worst",
    "age",
    "wisdom",
    "and",
    "we",
    "had",
]


def words_of(text: str, start_ms: int = 0, each_ms: int = 300, gap_ms: int = 100) -> list[RecognizedWord]:
    step = each_ms + gap_ms
    return [
        RecognizedWord(word, start_ms + i * step, start_ms + i * step + each_ms, 1.0)
        for i, word in enumerate(text.split())
    ]


def texts(words: Sequence[RecognizedWord]) -> list[str]:
    return [word.text for word in words]


def hear(
    spoken: Sequence[RecognizedWord],
    start_ms: int,
    end_ms: int,
    cut_ms: int,
    jitter_ms: int = 0,
    seed: int = 0,
    garble: bool = True,
) -> WindowWords:
    """What a perfect recogniser says of one window: whole words with jittered times; a word that the window's
    edge cuts through comes out as something else."""
    rng = random.Random(f"{seed}:{start_ms}:{end_ms}")
    heard: list[RecognizedWord] = []
    for word in spoken:
        start, end = max(word.start_ms, start_ms), min(word.end_ms, end_ms)
        if start >= end:
            continue
        text = word.text
        if (start, end) != (word.start_ms, word.end_ms):
            if not garble:
                continue
            text = rng.choice(["mm", "uh", text[: max(1, len(text) // 2)] + "x"])
        move = rng.randint(-jitter_ms, jitter_ms)
        start = min(max(start + move, start_ms), end_ms)
        end = min(max(end + move, start), end_ms)
        if heard:
            start = max(start, heard[-1].start_ms)
            end = max(end, start)
        heard.append(RecognizedWord(text, start, end, 1.0))
    return WindowWords(heard, start_ms, end_ms, cut_ms)


@st.composite
def speech(draw: st.DrawFn, vocabulary: Sequence[str] = VOCABULARY) -> list[RecognizedWord]:
    spoken: list[RecognizedWord] = []
    now = draw(st.integers(0, 500))
    for _ in range(draw(st.integers(4, 60))):
        length = draw(st.integers(120, 600))
        spoken.append(RecognizedWord(draw(st.sampled_from(list(vocabulary))), now, now + length, 1.0))
        now += length + draw(st.sampled_from([30, 60, 150, 400, 1500]))
    return spoken


@settings(max_examples=200, deadline=None)
@given(
    spoken=speech(),
    cut=st.floats(0, 1),
    overlap_ms=st.integers(2600, 5000),
    jitter_ms=st.sampled_from([0, 40, 80]),
    seed=st.integers(0, 10_000),
    garble=st.booleans(),
)
def test_a_cut_anywhere_gives_the_words_of_the_whole(
    spoken: list[RecognizedWord], cut: float, overlap_ms: int, jitter_ms: int, seed: int, garble: bool
) -> None:
    total = spoken[-1].end_ms + 200
    at = int(cut * total)
    left = hear(spoken, 0, min(at + overlap_ms // 2, total), 0, jitter_ms, seed, garble)
    right = hear(spoken, max(at - overlap_ms // 2, 0), total, at, jitter_ms, seed, garble)
    merged = merge([left, right])
    assert texts(merged) == texts(spoken)
    starts = [word.start_ms for word in merged]
    assert starts == sorted(starts)
    assert all(word.start_ms <= word.end_ms for word in merged)


@settings(max_examples=150, deadline=None)
@given(
    spoken=speech(),
    window_ms=st.integers(7000, 12_000),
    overlap_ms=st.integers(2600, 3400),
    jitter_ms=st.sampled_from([0, 80]),
    seed=st.integers(0, 10_000),
)
def test_many_windows_give_the_words_of_the_whole(
    spoken: list[RecognizedWord], window_ms: int, overlap_ms: int, jitter_ms: int, seed: int
) -> None:
    total = spoken[-1].end_ms + 200
    step, half = window_ms - overlap_ms, overlap_ms // 2
    cuts = [0, *range(step, max(total - half, 1), step)]
    windows = [
        hear(spoken, max(cut - half, 0), min(cut + step + half, total), cut, jitter_ms, seed) for cut in cuts
    ]
    assert texts(merge(windows)) == texts(spoken)


def spread(
    spoken: Sequence[RecognizedWord], start_ms: int, end_ms: int, cut_ms: int, seed: int
) -> WindowWords:
    """A recogniser with line times: whole words only, grouped at pauses, spread evenly by length of text over
    a line whose ends are off by up to 0.6 s."""
    rng = random.Random(f"{seed}:{start_ms}")
    inside = [w for w in spoken if w.start_ms >= start_ms and w.end_ms <= end_ms]
    lines: list[list[RecognizedWord]] = []
    for word in inside:
        if lines and word.start_ms - lines[-1][-1].end_ms < 350:
            lines[-1].append(word)
        else:
            lines.append([word])
    heard: list[RecognizedWord] = []
    for line in lines:
        begin = max(line[0].start_ms + rng.randint(-600, 600), heard[-1].end_ms if heard else 0)
        length = max(line[-1].end_ms + rng.randint(-600, 600) - begin, 20 * len(line))
        letters = sum(len(word.text) + 1 for word in line)
        done = 0
        for word in line:
            start = begin + length * done // letters
            done += len(word.text) + 1
            heard.append(RecognizedWord(word.text, start, begin + length * done // letters, 1.0))
    return WindowWords(heard, start_ms, end_ms, cut_ms)


# Sixty different words: with estimated times a word that comes back within the overlap is beyond any rule.
DISTINCT = [f"{a}{b}" for a in ("ka", "to", "merin", "sol", "v", "drastiq") for b in "aeiouwyzrt"]


@settings(max_examples=60, deadline=None)
@given(
    order=st.permutations(DISTINCT),
    lengths=st.lists(
        st.tuples(st.integers(120, 600), st.sampled_from([30, 60, 400, 900])), min_size=60, max_size=60
    ),
    cut=st.floats(0, 1),
    seed=st.integers(0, 10_000),
)
def test_estimated_times_lose_and_double_no_word(
    order: list[str], lengths: list[tuple[int, int]], cut: float, seed: int
) -> None:
    spoken: list[RecognizedWord] = []
    now = 0
    for text, (length, gap) in zip(order, lengths, strict=True):
        spoken.append(RecognizedWord(text, now, now + length, 1.0))
        now += length + gap
    at = int(cut * now)
    left = spread(spoken, 0, min(at + 2000, now), 0, seed)
    right = spread(spoken, max(at - 2000, 0), now, at, seed)
    assert texts(merge([left, right], times_estimated=True)) == texts(spoken)


def test_repeated_words_pair_with_themselves() -> None:
    spoken = words_of("no no no no no no no no no no no no")
    for at in range(1500, 3600, 50):
        left, right = hear(spoken, 0, at + 1000, 0), hear(spoken, at - 1000, 4800, at)
        assert len(merge([left, right])) == 12


def test_a_word_that_one_window_missed_is_kept() -> None:
    spoken = words_of("it was the best of times it was the worst of times")
    left = hear(spoken, 0, 3400, 0)
    right = hear(spoken, 1400, 4800, 2400)
    for missing in range(12):
        text, start = spoken[missing].text, spoken[missing].start_ms
        if 1900 < start < 2600:
            deaf = WindowWords([w for w in left.words if w.start_ms != start], 0, 3400, 0)
            assert texts(merge([deaf, right])) == texts(spoken), text
            deaf = WindowWords([w for w in right.words if w.start_ms != start], 1400, 4800, 2400)
            assert texts(merge([left, deaf])) == texts(spoken), text


def test_words_of_one_window_only_survive_where_the_other_is_silent() -> None:
    left = WindowWords(words_of("alpha beta"), 0, 6000, 0)
    right = WindowWords(words_of("gamma delta", start_ms=3200), 2000, 9000, 4000)
    assert texts(merge([left, right])) == ["alpha", "beta", "gamma", "delta"]
    left = WindowWords(words_of("alpha beta", start_ms=4100), 0, 6000, 0)
    right = WindowWords(words_of("gamma", start_ms=7000), 2000, 9000, 4000)
    assert texts(merge([left, right])) == ["alpha", "beta", "gamma"]


def test_one_word_heard_as_two_texts_comes_once() -> None:
    left = WindowWords([RecognizedWord("colour", 3900, 4300, 0.9)], 0, 6000, 0)
    right = WindowWords([RecognizedWord("caller", 3950, 4350, 0.8)], 2000, 9000, 4150)
    assert len(merge([left, right])) == 1


def test_a_word_that_is_heard_well_by_the_other_window_is_not_taken_from_the_edge() -> None:
    """Both windows invent a word near their own edge, where they have no context."""
    spoken = words_of("it was the best of times it was the worst of times")
    left, right = hear(spoken, 0, 3500, 0), hear(spoken, 1300, 4800, 2400)
    invented = RecognizedWord("uh", 3010, 3020, 1.0)
    noisy_left = sorted([*left.words, invented], key=lambda word: word.start_ms)
    invented = RecognizedWord("hm", 1710, 1720, 1.0)
    noisy_right = sorted([*right.words, invented], key=lambda word: word.start_ms)
    merged = merge([WindowWords(noisy_left, 0, 3500, 0), WindowWords(noisy_right, 1300, 4800, 2400)])
    assert texts(merged) == texts(spoken)


def test_the_hearing_with_more_context_gives_the_times() -> None:
    left = WindowWords([RecognizedWord("late", 5700, 5800, 0.5)], 0, 6000, 0)
    right = WindowWords([RecognizedWord("late", 5600, 5900, 0.9)], 2000, 9000, 4000)
    assert merge([left, right])[0].confidence == 0.9
    left = WindowWords([RecognizedWord("early", 2200, 2400, 0.9)], 0, 6000, 0)
    right = WindowWords([RecognizedWord("early", 2100, 2400, 0.5)], 2000, 9000, 4000)
    assert merge([left, right])[0].confidence == 0.9


def test_unlike_words_at_one_time_are_one_word_only_where_times_are_measured() -> None:
    left = WindowWords([RecognizedWord("alpha", 4500, 4900, 1.0)], 0, 6000, 0)
    right = WindowWords([RecognizedWord("beta", 4600, 5000, 1.0)], 2000, 9000, 4000)
    assert len(merge([left, right])) == 1
    assert texts(merge([left, right], times_estimated=True)) == ["alpha", "beta"]


def test_two_hearings_of_one_phrase_between_words_that_agree_come_once() -> None:
    left = WindowWords(words_of("before us we all go and direct to heaven", each_ms=250), 0, 3300, 0)
    right = WindowWords(words_of("us we're all going direct to heaven", 380, each_ms=300), 300, 6000, 1500)
    for estimated in (False, True):
        for cut in range(600, 2800, 100):
            moved = WindowWords(right.words, 300, 6000, cut)
            said = " ".join(texts(merge([left, moved], times_estimated=estimated)))
            assert said in {
                f"before us {we} all {going} direct to heaven"
                for we in ("we", "we're")
                for going in ("go and", "going")
            }, (cut, said)


def test_a_word_said_again_is_not_the_same_word() -> None:
    left = WindowWords([RecognizedWord("yes", 3400, 3600, 1.0)], 0, 6000, 0)
    right = WindowWords([RecognizedWord("yes", 4400, 4600, 1.0)], 2000, 9000, 4000)
    assert texts(merge([left, right])) == ["yes", "yes"]


def test_times_decide_between_ways_to_pair_repeated_words() -> None:
    """One window hears one more at the start, the other at the end: the most pairs are wrong ones."""
    spoken = words_of(" ".join(["no"] * 16), each_ms=180, gap_ms=70)
    left = hear(spoken, 0, spoken[11].end_ms - 90, 0)
    right = hear(spoken, spoken[5].start_ms + 90, 4000, spoken[8].start_ms)
    assert texts(merge([left, right])) == ["no"] * 16


def test_starts_never_go_back() -> None:
    left = WindowWords(
        [RecognizedWord("a", 3000, 3200, 1.0), RecognizedWord("b", 3900, 4200, 1.0)], 0, 6000, 0
    )
    right = WindowWords(
        [RecognizedWord("b", 3700, 3750, 1.0), RecognizedWord("c", 3850, 3990, 1.0)], 2000, 9000, 4100
    )
    merged = merge([left, right])
    assert texts(merged) == ["a", "b", "c"]
    assert [word.start_ms for word in merged] == sorted(word.start_ms for word in merged)
    assert all(word.end_ms >= word.start_ms for word in merged)


def test_case_and_punctuation_do_not_hide_a_match() -> None:
    left = WindowWords(words_of("It was the Best, of"), 0, 2100, 0)
    right = WindowWords(words_of("was the best of times", start_ms=400), 350, 4000, 1200)
    assert " ".join(normalise(text) for text in texts(merge([left, right]))) == "it was the best of times"


def test_without_overlap_windows_are_put_end_to_end() -> None:
    left = WindowWords(words_of("one two"), 0, 800, 0)
    right = WindowWords(words_of("three four", start_ms=800), 800, 1600, 800)
    assert texts(merge([left, right])) == ["one", "two", "three", "four"]


def test_nothing_and_silence() -> None:
    assert merge([]) == ()
    assert merge([WindowWords([], 0, 5000, 0), WindowWords([], 3000, 9000, 4000)]) == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Don't,", "dont"), ("Straße", "strasse"), ("ಕನ್ನಡ.", "ಕನ್ನಡ"), ("—", ""), ("A1", "a1")],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected
