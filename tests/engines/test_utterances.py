"""Words and utterances of a stream from its tokens, against the words of the whole recording."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.engines.base import RecognizedWord
from orchestrator.engines.endpointing import EndpointingOptions
from orchestrator.engines.lexicon import Lexicon, Token
from orchestrator.engines.nemo_words import TokenBatch, Vocabulary, transducer_tokens, words
from orchestrator.engines.streaming import StreamSegment
from orchestrator.engines.utterances import ONSET_MS, Utterances

# <unk> is 0; the last two are the UTF-8 bytes of e with acute accent.
PIECES = (
    *("<unk>", "\u2581", "\u2581a", "\u2581be", "ll", "o", "'s", "\u2581'em", "<s>"),
    *(".", ",", "?", "\u2581-", "<0xC3>", "<0xA9>"),
)
VOCABULARY = Vocabulary(PIECES, marks=frozenset(".,?'-"), unknown=[0], control=[8])
FRAME_MS = 80
DECODERS = ("tdt", "rnnt", "ctc")
LEXICONS = {decoder: Lexicon(VOCABULARY, decoder, FRAME_MS) for decoder in DECODERS}  # type: ignore[arg-type]
NEVER = EndpointingOptions(stop_history_ms=600_000, max_utterance_s=120)

Decoder = Literal["tdt", "rnnt", "ctc"]


def token(piece: str, frame: int, lasts: int = 1, confidence: float = 0.5) -> Token:
    return (PIECES.index(piece), frame, lasts, confidence)


@st.composite
def token_lists(draw: st.DrawFn, most: int = 40) -> list[Token]:
    """Tokens in order, several at one frame now and then."""
    count = draw(st.integers(0, most))
    frame = 0
    found: list[Token] = []
    for _ in range(count):
        frame += draw(st.integers(0, 4))
        confidence = draw(st.floats(0, 1, width=32))
        found.append(
            (draw(st.integers(0, len(PIECES) - 1)), frame, draw(st.integers(0, 4)), float(confidence))
        )
    return found


def offline(tokens: Sequence[Token], decoder: Decoder) -> tuple[RecognizedWord, ...]:
    """The words of a recording that has these tokens."""
    ids, frames, lasts = (np.array([each[part] for each in tokens], dtype=np.int64) for part in (0, 1, 2))
    confidence = np.array([each[3] for each in tokens], dtype=np.float32)
    counts = np.array([len(tokens)])
    if decoder == "ctc":
        timed, _ = LEXICONS["ctc"].timed(tokens, None)
        starts, ends = (np.array([each[part] for each in timed], dtype=np.int64) for part in (1, 2))
        batch = TokenBatch(counts, ids, starts, ends, confidence)
    else:
        batch = transducer_tokens(
            counts, ids, frames, lasts if decoder == "tdt" else None, confidence, VOCABULARY
        )
    return words(batch, VOCABULARY, float(FRAME_MS))[0]


def cut(tokens: Sequence[Token], edges: Sequence[int]) -> list[tuple[list[Token], list[Token], int]]:
    """The tokens of each chunk, those after it, and the chunk's frames."""
    found = []
    begin = 0
    for end in edges:
        inside = [each for each in tokens if begin <= each[1] < end]
        found.append((inside, [each for each in tokens if end <= each[1] < end + 6], end - begin))
        begin = end
    return found


edges_of_chunks = st.lists(st.integers(1, 20), max_size=12).map(
    lambda steps: np.cumsum([*steps, 170]).tolist()
)


def same(found: Sequence[RecognizedWord], wanted: Sequence[RecognizedWord]) -> None:
    assert [(w.text, w.start_ms, w.end_ms) for w in found] == [(w.text, w.start_ms, w.end_ms) for w in wanted]
    assert [w.confidence for w in found] == pytest.approx([w.confidence for w in wanted], abs=1e-9)


@pytest.mark.parametrize("decoder", DECODERS)
@settings(max_examples=50)
@given(tokens=token_lists(), edges=edges_of_chunks)
def test_without_endpoints_the_words_are_those_of_the_recording(
    decoder: Decoder, tokens: list[Token], edges: list[int]
) -> None:
    stream = Utterances(LEXICONS[decoder], NEVER)
    known: list[Token] = []
    for inside, after, frames in cut(tokens, edges):
        assert stream.advance(inside, frames) == []
        known += inside
        partial = stream.partial(after)
        if partial is not None:
            same(partial.words, offline([*known, *after], decoder))
    finals = stream.end()
    wanted = offline(tokens, decoder)
    assert len(finals) == bool(wanted)
    same(finals[0].words if finals else (), wanted)


@given(
    tokens=token_lists(),
    edges=edges_of_chunks,
    stop_ms=st.sampled_from((160, 320, 800)),
    limit=st.integers(1, 6),
    foreseen=st.booleans(),
)
def test_no_word_is_lost_or_repeated_whatever_ends_the_utterances(
    tokens: list[Token], edges: list[int], stop_ms: int, limit: int, foreseen: bool
) -> None:
    stream = Utterances(LEXICONS["tdt"], EndpointingOptions(stop_history_ms=stop_ms, max_utterance_s=limit))
    finals: list[StreamSegment] = []
    final_ms = 0
    for inside, after, frames in cut(tokens, edges):
        finals += stream.advance(inside, frames)
        if foreseen:
            finals += stream.foresee(after, 6)
        partial = stream.partial(after)
        assert partial is None or partial.utterance == len(finals)
        assert stream.final_ms >= final_ms
        final_ms = stream.final_ms
    finals += stream.end()
    assert [segment.utterance for segment in finals] == list(range(len(finals)))
    assert all(segment.final and segment.words and segment.stability == 1 for segment in finals)
    found = [word for segment in finals for word in segment.words]
    letters = "".join(word.text for word in found)
    wanted = "".join(word.text for word in offline(tokens, "tdt"))
    # Marks that come after their word has become final are left out, and bytes cut from their run differ.
    assert _letters(letters) == _letters(wanted)
    starts = [word.start_ms for word in found]
    assert starts == sorted(starts)


def _letters(text: str) -> str:
    return "".join(letter for letter in text if letter.isascii() and letter.isalpha())


@settings(max_examples=50)
@given(tokens=token_lists(), edges=edges_of_chunks)
def test_how_the_frames_are_cut_changes_no_final(tokens: list[Token], edges: list[int]) -> None:
    # Marks alone are no speech: an utterance of nothing else ends with the chunk in which that is seen.
    tokens = [token("\u2581a", 0), *(each for each in tokens if PIECES[each[0]] != "\u2581-")]
    options = EndpointingOptions(stop_history_ms=400, max_utterance_s=120)
    found = []
    for steps in (edges, range(1, edges[-1] + 1), edges[-1:]):
        stream = Utterances(LEXICONS["tdt"], options)
        finals = [s for inside, _, frames in cut(tokens, list(steps)) for s in stream.advance(inside, frames)]
        found.append(finals + stream.end())
    assert found[0] == found[1] == found[2]


def test_the_last_word_stays_partial_until_the_next_one_begins() -> None:
    stream = Utterances(LEXICONS["tdt"], EndpointingOptions())
    stream.advance([token("\u2581be", 0)], 2)
    first = stream.partial([token("ll", 2)])
    assert first is not None
    assert [word.text for word in first.words] == ["bell"]
    assert (first.final, first.utterance, first.stability) == (False, 0, 0.0)
    stream.advance([token("ll", 2)], 2)
    assert stream.partial([]) is None  # the same words
    stream.advance([token("o", 4), token("\u2581a", 5)], 2)
    second = stream.partial([])
    assert second is not None
    assert [(word.text, word.start_ms, word.end_ms) for word in second.words] == [
        ("bello", 0, 400),
        ("a", 400, 480),
    ]
    assert second.stability == 0.5


def test_what_was_shown_and_is_not_there_any_more_is_taken_back() -> None:
    stream = Utterances(LEXICONS["tdt"], EndpointingOptions())
    stream.advance([], 2)
    assert stream.partial([token("\u2581a", 2)]) is not None
    stream.advance([], 2)
    empty = stream.partial([])
    assert empty is not None
    assert empty.words == ()
    assert stream.partial([]) is None


def test_a_pause_ends_the_utterance_and_the_next_words_open_another() -> None:
    stream = Utterances(LEXICONS["tdt"], EndpointingOptions(stop_history_ms=800))
    finals = stream.advance([token("\u2581a", 0, 2), token("\u2581be", 15)], 20)
    assert [[word.text for word in segment.words] for segment in finals] == [["a"]]
    partial = stream.partial([token("ll", 20)])
    assert partial is not None
    assert (partial.utterance, [word.text for word in partial.words]) == (1, ["bell"])
    # Silence of 10 frames after the token's two frames.
    assert stream.advance([], 5) == []
    assert [segment.utterance for segment in stream.advance([], 2)] == [1]


def test_a_mark_does_not_keep_the_utterance_open_and_is_dropped_after_its_end() -> None:
    stream = Utterances(LEXICONS["tdt"], EndpointingOptions(stop_history_ms=800))
    finals = stream.advance([token("\u2581a", 0), token(".", 9)], 11)
    assert [word.text for segment in finals for word in segment.words] == ["a."]
    assert stream.advance([token(",", 12)], 4) == []
    assert stream.partial([token("?", 17)]) is None
    finals = stream.advance([token("\u2581be", 15), token(".", 16)], 20)
    assert [word.text for segment in finals for word in segment.words] == ["be."]


def test_a_long_utterance_ends_at_its_last_word_boundary() -> None:
    stream = Utterances(LEXICONS["tdt"], EndpointingOptions(max_utterance_s=1))
    tokens = [token("\u2581a" if frame % 6 == 0 else "o", frame) for frame in range(0, 39, 3)]
    finals = [segment for inside, _, n in cut(tokens, [13, 26, 39]) for segment in stream.advance(inside, n)]
    assert [[word.text for word in segment.words] for segment in finals] == [
        ["ao", "ao"],
        ["ao", "ao"],
        ["ao", "ao"],
    ]
    assert finals[1].words[0].start_ms == 12 * FRAME_MS
    rest = stream.end()
    assert [[word.text for word in segment.words] for segment in rest] == [["a"]]


def test_a_word_without_an_end_is_ended_by_the_limit_too() -> None:
    stream = Utterances(LEXICONS["tdt"], EndpointingOptions(max_utterance_s=1))
    finals = stream.advance([token("o", frame) for frame in range(14)], 14)
    assert [word.text for segment in finals for word in segment.words] == ["o" * 14]


def test_the_end_of_utterance_mark_makes_the_partial_stable_until_speech_comes() -> None:
    stream = Utterances(LEXICONS["tdt"], EndpointingOptions(stop_history_eou_ms=240, stop_threshold_eou=0.9))
    stream.advance([token("\u2581a", 0)], 2)
    stream.partial([])
    stream.advance([], 2)
    marked = stream.partial([])
    assert marked is not None
    assert (marked.stability, marked.final) == (1.0, False)
    assert stream.partial([]) is None
    stream.advance([token("\u2581be", 4)], 2)
    again = stream.partial([])
    assert again is not None
    assert again.stability == 0.5


def test_silence_that_is_heard_but_not_committed_ends_the_utterance_too() -> None:
    stream = Utterances(LEXICONS["tdt"], EndpointingOptions(stop_history_ms=800, stop_history_eou_ms=400))
    stream.advance([token("\u2581a", 0, 2)], 4)
    assert stream.foresee([], 2) == []
    assert stream.foresee([token("\u2581be", 11)], 8) == []
    unmarked = stream.partial([])
    assert unmarked is not None
    assert unmarked.stability == 0.0
    assert stream.foresee([], 7) == []
    marked = stream.partial([])
    assert marked is not None
    assert marked.stability == 1.0
    assert [word.text for segment in stream.foresee([], 8) for word in segment.words] == ["a"]
    assert stream.advance([], 20) == []
    assert stream.end() == []


def test_a_forced_end_makes_all_final_and_the_stream_goes_on() -> None:
    stream = Utterances(LEXICONS["tdt"], EndpointingOptions())
    stream.advance([token("\u2581a", 0), token("\u2581be", 1)], 2)
    assert [[word.text for word in s.words] for s in stream.end()] == [["a", "be"]]
    assert stream.end() == []
    stream.advance([token("\u2581a", 3)], 2)
    last = stream.end()
    assert [(s.utterance, [(w.text, w.start_ms) for w in s.words]) for s in last] == [(1, [("a", 240)])]


def test_words_that_are_too_few_to_begin_an_utterance_end_all_the_same() -> None:
    options = EndpointingOptions(start_history_ms=800, start_threshold=0.9)
    stream = Utterances(LEXICONS["tdt"], options)
    finals = stream.advance([token("\u2581a", 0)], 12)
    assert [word.text for segment in finals for word in segment.words] == ["a"]


def test_a_detector_decides_when_it_is_asked() -> None:
    stream = Utterances(LEXICONS["tdt"], EndpointingOptions(stop_history_ms=400))
    speech = np.array([True] * 3 + [False] * 4)
    assert stream.advance([token("\u2581a", 0)], 7, speech) == []
    finals = stream.advance([token("\u2581be", 10)], 5, np.array([False, False, False, True, True]))
    assert [word.text for segment in finals for word in segment.words] == ["a"]
    # The detector still hears speech, so the pause between the tokens ends nothing.
    assert stream.advance([], 20, np.ones(20, dtype=np.bool_)) == []


def test_a_word_that_begins_late_in_the_silence_is_of_the_next_utterance() -> None:
    stream = Utterances(LEXICONS["tdt"], EndpointingOptions(stop_history_ms=800))
    speech = np.array([True] * 4 + [False] * 10)
    tokens = [token("\u2581a", 0), token("\u2581be", 5), token("\u2581a", 13)]
    finals = stream.advance(tokens, 14, speech)
    assert [word.text for segment in finals for word in segment.words] == ["a", "be"]
    stream.advance([token("ll", 14)], 2, np.ones(2, dtype=np.bool_))
    assert [word.text for segment in stream.end() for word in segment.words] == ["all"]


def test_a_word_before_the_detector_hears_speech_waits_for_it() -> None:
    stream = Utterances(LEXICONS["tdt"], EndpointingOptions(stop_history_ms=800))
    assert stream.advance([token("\u2581be", 11)], 12, np.zeros(12, dtype=np.bool_)) == []


def test_audio_is_needed_from_a_little_before_the_first_word_that_is_not_final() -> None:
    stream = Utterances(LEXICONS["tdt"], EndpointingOptions())
    stream.advance([], 20)
    assert stream.final_ms == 20 * FRAME_MS - ONSET_MS
    stream.advance([token("\u2581a", 22), token("\u2581be", 24)], 6)
    assert stream.final_ms == 22 * FRAME_MS - ONSET_MS
    stream.end()
    assert stream.final_ms == 26 * FRAME_MS


@pytest.mark.parametrize(("pause", "still_needed"), [(0, 0), (4, 1), (6, 3), (9, 5), (20, 5)])
def test_audio_just_behind_a_final_word_is_not_needed(pause: int, still_needed: int) -> None:
    stream = Utterances(LEXICONS["tdt"], EndpointingOptions())
    stream.advance([token("\u2581a", 0)], 1)
    stream.end()
    stream.advance([token("\u2581be", 1 + pause)], pause + 1)
    assert stream.final_ms == (1 + pause - still_needed) * FRAME_MS
