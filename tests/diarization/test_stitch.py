"""Words and turns to labelled words and segments: examples for each rule, then invariants."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.bench import stitching as bench
from orchestrator.diarization.base import SpeakerTurn
from orchestrator.diarization.labels import MEASURED, NO_SPEAKER, LabelRules, TurnArrays, label_arrays
from orchestrator.diarization.stitch import label_words, name_turns, segments, stitch
from orchestrator.transcript.models import Turn, Word


def word(start: float, end: float, text: str = "word") -> Word:
    return Word(start=start, end=end, text=text)


def turn(start: float, end: float, speaker: str) -> Turn:
    return Turn(start=start, end=end, speaker=speaker)


def speakers(words: list[Word], turns: list[Turn], **options: object) -> list[str | None]:
    return [labelled.speaker for labelled in label_words(words, turns, **options)]  # type: ignore[arg-type]


# --- the label ------------------------------------------------------------------------------------------


def test_the_speaker_with_most_cover_wins() -> None:
    turns = [turn(0, 1.4, "ann"), turn(1.4, 3, "bob")]
    assert speakers([word(0.2, 0.6), word(1.0, 2.0), word(2, 2.5)], turns) == ["ann", "bob", "bob"]


def test_cover_is_summed_over_a_speakers_turns() -> None:
    turns = [turn(0, 0.3, "ann"), turn(0.3, 0.7, "bob"), turn(0.7, 1, "ann")]
    assert speakers([word(0, 1)], turns) == ["ann"]


def test_equal_cover_goes_to_the_earlier_turn_whatever_the_names() -> None:
    for first, second in (("ann", "bob"), ("bob", "ann")):
        turns = [turn(1, 2, second), turn(0, 1, first)]
        assert speakers([word(0.5, 1.5)], turns) == [first]


def test_turns_may_come_unsorted_and_touching_turns_share_no_instant() -> None:
    turns = [turn(2, 3, "bob"), turn(0, 2, "ann")]
    assert speakers([word(1.0, 2.0), word(2.0, 2.0), word(2.0, 2.4)], turns) == ["ann", "bob", "bob"]


def test_an_earlier_exclusive_turn_keeps_the_time_of_an_overlap() -> None:
    turns = [turn(0, 2, "ann"), turn(1, 3, "bob")]
    assert speakers([word(1.0, 2.5), word(2.1, 2.5)], turns) == ["ann", "bob"]


def test_a_gap_word_takes_the_nearest_edge() -> None:
    turns = [turn(0, 10, "ann"), turn(12, 13, "bob")]
    words = [word(10.1, 10.3), word(11.7, 11.9), word(10.8, 11.2)]
    assert speakers(words, turns) == ["ann", "bob", "ann"]


def test_a_gap_word_beyond_the_bound_has_no_speaker() -> None:
    turns = [turn(0, 1, "ann")]
    near, far = label_words([word(2.0, 2.2), word(2.001, 2.2)], turns)
    assert near.speaker == "ann"
    assert (far.speaker, far.speaker_confidence) == (None, None)


def test_without_turns_no_word_has_a_speaker() -> None:
    (labelled,) = label_words([word(0, 1)], [])
    assert (labelled.speaker, labelled.speaker_confidence, labelled.overlap) == (None, None, False)


def test_no_words_give_no_words() -> None:
    assert label_words([], [turn(0, 1, "ann")]) == ()
    assert stitch([], [turn(0, 1, "ann")]) == ()


def test_an_end_left_open_over_silence_does_not_reach_the_next_speaker() -> None:
    turns = [turn(0, 1.0, "ann"), turn(4, 9, "bob")]
    # the word is said at 0.7-1.0; the recogniser closed it only at the next word
    assert speakers([word(0.7, 5.0)], turns) == ["ann"]
    # the same cover without the hole is bob's
    assert speakers([word(0.7, 5.0)], [turn(0, 1.0, "ann"), turn(1, 9, "bob")]) == ["bob"]


def test_a_gap_word_left_open_is_measured_as_a_word() -> None:
    turns = [turn(0, 1.0, "ann"), turn(4, 9, "bob")]
    assert speakers([word(1.2, 3.9)], turns) == ["ann"]


# --- smoothing ------------------------------------------------------------------------------------------

ISLAND_TURNS = (turn(0, 1.18, "ann"), turn(1.18, 1.41, "bob"), turn(1.41, 3, "ann"))


def test_a_single_word_that_barely_led_joins_its_neighbours() -> None:
    words = [word(0.5, 0.9), word(1.0, 1.40), word(1.5, 1.9)]  # bob 220 ms, ann 180 ms
    assert speakers(words, list(ISLAND_TURNS)) == ["ann", "ann", "ann"]


def test_a_single_word_with_a_clear_lead_stays() -> None:
    words = [word(0.5, 0.9), word(1.1, 1.40), word(1.5, 1.9)]  # bob 220 ms, ann 80 ms
    assert speakers(words, list(ISLAND_TURNS)) == ["ann", "bob", "ann"]


def test_a_short_answer_inside_its_own_turn_stays_however_short() -> None:
    words = [word(0.5, 0.9), word(1.2, 1.25), word(1.5, 1.9)]
    assert speakers(words, list(ISLAND_TURNS)) == ["ann", "bob", "ann"]


def test_a_single_word_that_does_not_touch_its_neighbours_speaker_stays() -> None:
    turns = [turn(0, 1, "ann"), turn(1, 1.2, "bob"), turn(1.2, 1.3, "cid"), turn(1.3, 3, "ann")]
    words = [word(0.5, 0.9), word(1.15, 1.24), word(1.5, 1.9)]
    assert speakers(words, turns) == ["ann", "bob", "ann"]


def test_a_smoothed_words_confidence_is_that_of_its_new_speaker() -> None:
    words = [word(0.5, 0.9), word(1.0, 1.40), word(1.5, 1.9)]
    assert label_words(words, ISLAND_TURNS)[1].speaker_confidence == pytest.approx(180 / 400)
    turns = [turn(0, 1, "ann"), turn(1.5, 1.6, "bob"), turn(1.6, 3, "ann")]
    words[1] = word(1.22, 1.32)  # ann is 220 ms away
    assert label_words(words, turns)[1].speaker_confidence == pytest.approx(0.5 * (1 - 220 / 1001))


def test_two_words_are_no_island() -> None:
    words = [word(0.5, 0.9), word(1.0, 1.40), word(1.2, 1.4), word(1.5, 1.9)]
    assert speakers(words, list(ISLAND_TURNS)) == ["ann", "bob", "bob", "ann"]


def test_estimated_times_smooth_more() -> None:
    words = [word(0.5, 0.9), word(1.1, 1.40), word(1.5, 1.9)]
    assert speakers(words, list(ISLAND_TURNS), times_estimated=True) == ["ann", "ann", "ann"]


def test_a_gap_island_joins_its_neighbours_within_the_lead() -> None:
    turns = [turn(0, 1, "ann"), turn(1.5, 1.6, "bob"), turn(1.6, 3, "ann")]
    words = [word(0.5, 0.9), word(1.22, 1.32), word(2, 2.5)]  # 220 ms after ann, 180 ms before bob
    assert speakers(words, turns) == ["ann", "ann", "ann"]
    words[1] = word(1.30, 1.40)
    assert speakers(words, turns) == ["ann", "bob", "ann"]


def test_alternating_single_words_stay() -> None:
    turns = [turn(i * 0.5, (i + 1) * 0.5, "ab"[i % 2]) for i in range(6)]
    words = [word(max(0, i * 0.5 - 0.2), i * 0.5 + 0.25) for i in range(6)]
    assert speakers(words, turns) == ["a", "b", "a", "b", "a", "b"]


# --- confidence and overlap -----------------------------------------------------------------------------


def test_confidence_is_the_share_under_the_speaker() -> None:
    turns = [turn(0, 1.0, "ann"), turn(1.0, 3, "bob")]
    inside, mostly = label_words([word(0, 0.5), word(0.25, 1.25)], turns)
    assert inside.speaker_confidence == 1.0
    assert mostly.speaker_confidence == pytest.approx(0.75)


def test_confidence_in_a_gap_falls_with_distance() -> None:
    words = [word(1.0 + gap, 1.2 + gap) for gap in (0.0, 0.2, 0.5, 1.0)]
    values = [labelled.speaker_confidence for labelled in label_words(words, [turn(0, 1, "ann")])]
    assert values[0] == pytest.approx(0.5)
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4


def test_silence_inside_a_word_counts_half() -> None:
    (labelled,) = label_words([word(0.8, 1.2)], [turn(0, 1, "ann")])
    assert labelled.speaker_confidence == pytest.approx(0.75)


def test_silence_a_word_was_left_open_over_does_not_count() -> None:
    (labelled,) = label_words([word(0.7, 5.0)], [turn(0, 1.0, "ann"), turn(4, 9, "bob")])
    assert labelled.speaker_confidence == 1.0


def test_overlap_means_two_speakers_at_one_time_during_the_word() -> None:
    exclusive = [turn(0, 2, "ann"), turn(2, 4, "bob")]
    full = [turn(0, 2, "ann"), turn(1.5, 4, "bob")]
    words = [word(0.5, 1.5), word(1.4, 1.6), word(1.6, 1.9), word(1.95, 2.3), word(2.0, 2.5)]
    flags = [labelled.overlap for labelled in label_words(words, exclusive, full)]
    assert flags == [False, True, True, True, False]


def test_one_speakers_own_turns_are_no_overlap() -> None:
    nested = [turn(0, 3, "ann"), turn(0.5, 0.7, "ann"), turn(1, 2, "ann"), turn(2.5, 3, "ann")]
    full = [*nested, turn(3, 4, "bob")]
    assert not any(labelled.overlap for labelled in label_words([word(0.5, 3.5)], full[:1], full))


# --- segments -------------------------------------------------------------------------------------------


def test_segments_follow_the_labels_and_split_at_pauses() -> None:
    turns = [turn(0, 2, "ann"), turn(2, 8, "bob")]
    words = [word(0, 1, "a"), word(1, 2, "b"), word(2, 3, "c"), word(4.5, 5, "d"), word(9.5, 9.9, "e")]
    result = stitch(words, turns)
    assert [(s.speaker, s.text, s.start, s.end) for s in result] == [
        ("ann", "a b", 0, 2),
        ("bob", "c", 2, 3),
        ("bob", "d", 4.5, 5),
        (None, "e", 9.5, 9.9),
    ]
    assert all(w.speaker == s.speaker for s in result for w in s.words)


def test_segments_can_be_bounded_in_length() -> None:
    words = [word(i, i + 0.9, str(i)) for i in range(6)]
    result = segments(words, max_segment_ms=2000)
    assert [s.text for s in result] == ["0 1", "2 3", "4 5"]
    (whole,) = segments([word(0, 9)], max_segment_ms=2000)
    assert whole.end == 9


def test_turns_get_names_by_number() -> None:
    (first, second) = name_turns([SpeakerTurn(0, 1500, 0), SpeakerTurn(1500, 2000, 11)])
    assert (first.start, first.end, first.speaker, second.speaker) == (0, 1.5, "SPEAKER_00", "SPEAKER_11")
    assert name_turns([SpeakerTurn(0, 1, 1)], ["ann", "bob"])[0].speaker == "bob"


# --- invariants -----------------------------------------------------------------------------------------

NAMES = ("ann", "bob", "cid")

FEWER = settings(max_examples=50)


@st.composite
def word_lists(draw: st.DrawFn) -> list[Word]:
    at, words = 0, []
    for number in range(draw(st.integers(0, 12))):
        at = max(0, at + draw(st.integers(-60, 700)))
        length = draw(st.one_of(st.integers(0, 600), st.integers(0, 4000)))
        mark = draw(st.sampled_from(["", "", ",", "."]))
        words.append(word(at / 1000, (at + length) / 1000, f"w{number}{mark}"))
        at += min(length, draw(st.integers(0, 4000)))
    return words


@st.composite
def turn_lists(draw: st.DrawFn, exclusive: bool = True) -> list[Turn]:
    at, turns = 0, []
    for _ in range(draw(st.integers(0, 10))):
        at = max(0, at + draw(st.integers(0 if exclusive else -1500, 1500)))
        length = draw(st.integers(0, 2000))
        turns.append(turn(at / 1000, (at + length) / 1000, draw(st.sampled_from(NAMES))))
        at += length
    return turns


def shifted(spans: list, by_ms: int, from_ms: int = 0) -> list:  # type: ignore[type-arg]
    """Move every span that starts at ``from_ms`` or later."""
    return [
        span.model_copy(update={"start": span.start + by_ms / 1000, "end": span.end + by_ms / 1000})
        if round(span.start * 1000) >= from_ms
        else span
        for span in spans
    ]


@FEWER
@given(word_lists(), turn_lists(), turn_lists(exclusive=False), st.booleans())
def test_words_keep_text_order_and_times(
    words: list[Word], exclusive: list[Turn], full: list[Turn], estimated: bool
) -> None:
    segments = stitch(words, exclusive, full, times_estimated=estimated)
    stitched = [w for segment in segments for w in segment.words]
    assert [(w.text, w.start, w.end, w.confidence) for w in stitched] == [
        (w.text, w.start, w.end, w.confidence) for w in words
    ]


@FEWER
@given(word_lists(), turn_lists(), turn_lists(exclusive=False), st.booleans())
def test_labels_come_from_the_exclusive_turns(
    words: list[Word], exclusive: list[Turn], full: list[Turn], estimated: bool
) -> None:
    allowed = {t.speaker for t in exclusive} | {None}
    for labelled in label_words(words, exclusive, full, times_estimated=estimated):
        assert labelled.speaker in allowed
        assert (labelled.speaker_confidence is None) == (labelled.speaker is None)
        assert labelled.speaker_confidence is None or 0 <= labelled.speaker_confidence <= 1


@FEWER
@given(word_lists(), turn_lists(), turn_lists(exclusive=False), st.integers(0, 10_000_000), st.booleans())
def test_shifting_time_shifts_all(
    words: list[Word], exclusive: list[Turn], full: list[Turn], by_ms: int, estimated: bool
) -> None:
    here = stitch(words, exclusive, full, times_estimated=estimated)
    there = stitch(
        shifted(words, by_ms), shifted(exclusive, by_ms), shifted(full, by_ms), times_estimated=estimated
    )
    assert len(here) == len(there)
    for a, b in zip(here, there, strict=True):
        assert (a.text, a.speaker) == (b.text, b.speaker)
        assert b.start == pytest.approx(a.start + by_ms / 1000, abs=1e-6)
        assert [(w.speaker, w.overlap) for w in a.words] == [(w.speaker, w.overlap) for w in b.words]
        assert [w.speaker_confidence for w in a.words] == [w.speaker_confidence for w in b.words]


@FEWER
@given(
    word_lists(),
    turn_lists(),
    turn_lists(exclusive=False),
    st.integers(0, 30),
    st.integers(0, 100_000),
    st.booleans(),
)
def test_more_silence_changes_no_label(
    words: list[Word],
    exclusive: list[Turn],
    full: list[Turn],
    which: int,
    more_ms: int,
    estimated: bool,
) -> None:
    # Lengthen one silence: a stretch without turns and words. Its length matters only to words in gaps, which
    # it moves away from an edge, so only words under a turn are kept.
    words = [w for w in words if covered(w, exclusive)]
    spans = [(round(s.start * 1000), round(s.end * 1000)) for s in [*words, *exclusive, *full]]
    quiet = [end for end in sorted({end for _, end in spans}) if all(b <= end or a > end for a, b in spans)]
    if not quiet:
        return
    cut = quiet[which % len(quiet)] + 1
    before = label_words(words, exclusive, full, times_estimated=estimated)
    after = label_words(
        shifted(words, more_ms, cut),
        shifted(exclusive, more_ms, cut),
        shifted(full, more_ms, cut),
        times_estimated=estimated,
    )
    assert [(w.speaker, w.overlap, w.speaker_confidence) for w in before] == [
        (w.speaker, w.overlap, w.speaker_confidence) for w in after
    ]


def covered(spoken: Word, turns: list[Turn]) -> bool:
    end = max(spoken.end, spoken.start + 0.001)
    return any(min(end, t.end) - max(spoken.start, t.start) > 0 for t in turns)


@FEWER
@given(word_lists(), turn_lists(), st.integers(0, 100_000))
def test_empty_turns_and_leading_or_trailing_silence_change_nothing(
    words: list[Word], exclusive: list[Turn], at_ms: int
) -> None:
    expected = label_words(words, exclusive)
    assert label_words(words, [*exclusive, turn(at_ms / 1000, at_ms / 1000, "ann")]) == expected


@settings(max_examples=200, deadline=None)
@given(word_lists(), turn_lists(), turn_lists(exclusive=False))
def test_labels_agree_with_brute_force(words: list[Word], exclusive: list[Turn], full: list[Turn]) -> None:
    fast = label_words(words, exclusive, full)
    assert [w.speaker for w in fast] == slow_labels(words, exclusive, MEASURED)
    assert [w.overlap for w in fast] == [slow_overlap(w, full) for w in words]


def slow_labels(words: list[Word], turns: list[Turn], rules: LabelRules) -> list[str | None]:
    """The rules word by word over all turns, in the order the module states them."""
    spans = sorted((round(t.start * 1000), round(t.end * 1000), t.speaker) for t in turns if t.end > t.start)
    raw = [slow_label(round(w.start * 1000), round(w.end * 1000), spans, rules) for w in words]
    names = [name for name, _ in raw]
    island = [
        0 < i < len(names) - 1
        and None not in names[i - 1 : i + 2]
        and names[i - 1] == names[i + 1] != names[i]
        for i in range(len(names))
    ]
    result = list(names)
    for i, (name, claims) in enumerate(raw):
        if island[i] and not island[i - 1] and not island[i + 1]:
            rival = names[i - 1]
            if rival in claims and claims[name] - claims[rival] <= rules.island_lead_ms:
                result[i] = rival
    return result


def slow_label(
    start: int, end: int, spans: list[tuple[int, int, str]], rules: LabelRules
) -> tuple[str | None, dict[str | None, int]]:
    """The label, and each speaker's claim: cover in ms, or minus the distance in ms."""
    end = max(end, start + 1)
    claims: dict[str | None, int] = {}
    previous_end = None
    for a, b, name in spans:
        cover = min(end, b) - max(start, a)
        if cover <= 0:
            continue
        if previous_end is not None and a - previous_end >= rules.silence_ms:
            break
        previous_end = b
        claims[name] = claims.get(name, 0) + cover
    if not claims:
        end = min(end, start + rules.max_gap_word_ms)
        before = [(b - start, name) for _, b, name in spans if b <= start][-1:]
        after = [(end - a, name) for a, _, name in spans if a > start][:1]
        for claim, name in before + after:
            if -claim <= rules.max_gap_ms:
                claims[name] = max(claim, claims.get(name, claim))
    if not claims:
        return None, {}
    return max(claims, key=lambda name: claims[name]), claims  # the first of equals: the earlier turn


def slow_overlap(spoken: Word, turns: list[Turn]) -> bool:
    start, end = round(spoken.start * 1000), max(round(spoken.end * 1000), round(spoken.start * 1000) + 1)
    spans = [(max(start, round(t.start * 1000)), min(end, round(t.end * 1000)), t.speaker) for t in turns]
    return any(
        one[2] != two[2] and min(one[1], two[1]) > max(one[0], two[0]) for one in spans for two in spans
    )


# --- scale ----------------------------------------------------------------------------------------------


def test_the_core_agrees_with_brute_force_at_scale() -> None:
    spoken, exclusive, full = bench.conversation(3000, 400, seed=3)
    labels = label_arrays(spoken.start, spoken.end, exclusive, full)
    words = [
        word(a / 1000, b / 1000) for a, b in zip(spoken.start.tolist(), spoken.end.tolist(), strict=True)
    ]
    turns = [
        turn(a / 1000, b / 1000, str(s))
        for a, b, s in zip(
            exclusive.start.tolist(), exclusive.end.tolist(), exclusive.speaker.tolist(), strict=True
        )
    ]
    expected = [NO_SPEAKER if name is None else int(name) for name in slow_labels(words, turns, MEASURED)]
    assert labels.speaker.tolist() == expected
    assert len(set(expected)) == 5  # four speakers and none: the sample reaches every kind of label


def test_arrays_need_not_be_sorted() -> None:
    spoken, exclusive, full = bench.conversation(500, 60, seed=1)
    order = np.random.default_rng(0).permutation(60)
    mixed = TurnArrays(exclusive.start[order], exclusive.end[order], exclusive.speaker[order])
    straight = label_arrays(spoken.start, spoken.end, exclusive, full)
    assert label_arrays(spoken.start, spoken.end, mixed, full).speaker.tolist() == straight.speaker.tolist()


def test_the_benchmark_reports_each_cost_and_its_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "WORDS_PER_DAY", 500)
    monkeypatch.setattr(bench, "TURNS_PER_DAY", 60)
    rows = bench.run(scales=(1, 2), repeats=1)
    assert [(row["what"], row["words"]) for row in rows] == [
        ("array core", 500),
        ("array core", 1000),
        ("estimated", 500),
        ("estimated", 1000),
        ("transcript", 500),
        ("transcript", 1000),
    ]
    assert all(row["growth"] == 1.0 for row in rows[::2])


def test_stitching_needs_neither_torch_nor_pyannote() -> None:
    code = (
        "import sys, orchestrator.diarization, orchestrator.diarization.stitch;"
        "print([name for name in ('torch', 'pyannote.audio', 'nemo') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
