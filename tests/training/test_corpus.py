from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.training.corpus import (
    DIALOGUE,
    FREE_WORDS,
    VOCABULARY,
    Split,
    held_back_pairs,
    is_held_back,
    sentences,
    split_of,
)
from orchestrator.training.recordings import plan
from orchestrator.training.voices import HELD_OUT_ESPEAK, HELD_OUT_PROGRAMS, ORDINARY_RATES, training_voice


def take(split: Split, seed: int, count: int = 400, **options) -> list[str]:
    return list(itertools.islice(sentences(split, seed, **options), count))


@pytest.mark.parametrize("split", list(Split))
def test_sentences_are_the_same_for_the_same_seed_only(split):
    assert take(split, 3) == take(split, 3)
    assert take(split, 3) != take(split, 4)


def test_first_sentences_are_the_ones_the_checkpoint_was_trained_on():
    # Pinned: another order of draws would make the shipped checkpoint's corpus impossible to make again.
    assert take(Split.TRAIN, 1, 3) == [
        "anna turn on the light",
        "will david meet oscar",
        "please bring anna five ready door",
    ]


def test_sentences_use_every_word_of_the_vocabulary_and_no_other():
    words = {word for text in take(Split.TRAIN, 1, 3000) for word in text.split()}
    assert words == set(VOCABULARY)
    assert all(word.isascii() and word.islower() and word.isalpha() for word in VOCABULARY)


def test_no_training_sentence_holds_a_pair_that_is_tested():
    assert not any(held_back_pairs(text) for text in take(Split.TRAIN, 1, 2000))
    assert all(held_back_pairs(text) for text in take(Split.TEST, 1, 300))


def test_splits_are_disjoint():
    assert not set(take(Split.TRAIN, 1, 3000)) & set(take(Split.TEST, 1, 3000))


def test_one_pair_in_forty_is_held_back():
    pairs = [is_held_back(*pair) for pair in itertools.product(VOCABULARY, repeat=2)]
    assert 0.02 < sum(pairs) / len(pairs) < 0.03


@given(st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=8))
def test_a_sentence_is_on_exactly_one_side(words):
    text = " ".join(words)
    tested = any(is_held_back(*pair) for pair in itertools.pairwise(words))
    assert split_of(text) is (Split.TEST if tested else Split.TRAIN)


def test_shortest_sentences_can_be_asked_for():
    assert min(len(text.split()) for text in take(Split.TEST, 2, 200, min_words=4)) == 4
    assert min(len(text.split()) for text in take(Split.TRAIN, 2)) == 1


def test_dialogue_is_never_trained_on():
    trained = {text for text, _ in [*plan(30_000, 1), *plan(20_000, 2)]}
    for _, text in DIALOGUE:
        assert split_of(text) is Split.TEST
        assert set(text.split()) <= set(VOCABULARY)
        assert text not in trained


def test_plan_is_deterministic_and_starts_with_every_word():
    jobs = plan(1000, 5)
    assert jobs == plan(1000, 5)
    assert {text for text, _ in jobs[: len(FREE_WORDS)]} == set(FREE_WORDS)
    assert all(split_of(text) is Split.TRAIN for text, _ in jobs)


def test_held_out_voices_are_not_training_voices():
    rng = random.Random(0)
    trained = {(voice.program, voice.name) for voice in (training_voice(rng) for _ in range(20_000))}
    for voice in (*HELD_OUT_ESPEAK, *HELD_OUT_PROGRAMS):
        assert (voice.program, voice.name) not in trained
        assert voice.program != "festival" or all(program != "festival" for program, _ in trained)
    for voice in HELD_OUT_ESPEAK:
        variant = voice.name.partition("+")[2]
        assert not any(name.endswith(f"+{variant}") for _, name in trained)


def test_rates_and_programs_can_be_limited():
    rng = random.Random(0)
    voices = [training_voice(rng, flite=0.0, rates=ORDINARY_RATES) for _ in range(300)]
    assert {voice.program for voice in voices} == {"espeak-ng"}
    assert all(110 <= voice.rate <= 170 for voice in voices)
