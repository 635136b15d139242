"""What is said: the closed vocabulary, the sentences, and which of them may be trained on. Pure.

The split is by word combination. A fixed hash holds about one ordered pair of neighbouring words in forty
back. A training sentence contains no held-back pair; every test sentence contains at least one, so the
recogniser has never heard those words side by side, and no test sentence can be a training sentence.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Final

NAMES: Final = ("anna", "ben", "clara", "david", "emma", "oscar")
NUMBERS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DAYS: Final = ("monday", "friday")
TIMES: Final = ("today", "tomorrow", "tonight", "now", "later")
PLACES: Final = ("kitchen", "office", "garden", "station", "house", "room", "street")
THINGS: Final = (
    "door", "window", "light", "music", "report", "message",
    "coffee", "train", "phone", "camera", "table", "picture",
)  # fmt: skip
QUALITIES: Final = (
    "warm", "cold", "quiet", "small", "happy", "ready", "red", "blue", "green", "yellow", "white",
)  # fmt: skip
ACTIONS: Final = (
    "call", "send", "open", "shut", "start", "stop", "play", "find", "bring", "turn",
    "meet", "see", "need", "want", "have", "leave", "wait",
)  # fmt: skip
SMALL_WORDS: Final = (
    "am", "are", "is", "can", "will", "do", "not", "i", "you", "we", "they", "it", "my", "your", "the",
    "this", "that", "at", "in", "on", "off", "and", "with", "please", "hello", "good", "morning", "evening",
    "thank", "yes", "no", "sorry", "okay", "how", "when", "where", "what", "who",
)  # fmt: skip

# No two words sound alike: "to", "for", "a" and "an" are left out for that reason.
FREE_WORDS: Final = tuple(
    sorted({*NAMES, *NUMBERS, *DAYS, *TIMES, *PLACES, *THINGS, *QUALITIES, *ACTIONS, *SMALL_WORDS})
)
"""The words of free combinations and single-word recordings."""

VOCABULARY: Final = tuple(sorted({*FREE_WORDS, "number"}))
"""All words; "number" occurs in one rule of the grammar only."""

DIALOGUE: Final = (
    ("anna", "hello david this is anna how are you"),
    ("david", "good morning anna i am happy thank you"),
    ("anna", "can you send the blue report now"),
    ("david", "sorry i have no report today"),
    ("anna", "okay when will you have it"),
    ("david", "tomorrow morning at nine please call my office"),
    ("anna", "the number is four seven two eight"),
    ("david", "yes please bring the small camera"),
)
"""The shipped two-speaker recording, turn by turn. None of these sentences is ever trained on."""

MAX_FREE_WORDS: Final = 8
_HELD_BACK_ONE_IN: Final = 40
_RESERVED: Final = frozenset(text for _, text in DIALOGUE)


class Split(StrEnum):
    """Which side of the split a sentence is on."""

    TRAIN = "train"
    TEST = "test"


def is_held_back(first: str, second: str) -> bool:
    """Whether ``first second`` is an ordered pair that training never sees side by side."""
    digest = hashlib.sha256(f"{first} {second}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % _HELD_BACK_ONE_IN == 0


def held_back_pairs(text: str) -> list[tuple[str, str]]:
    """The held-back pairs that occur in ``text``, in order."""
    words = text.split()
    return [pair for pair in itertools.pairwise(words) if is_held_back(*pair)]


def split_of(text: str) -> Split:
    """The side ``text`` is on: test if it holds a held-back pair or belongs to the shipped dialogue."""
    return Split.TEST if text in _RESERVED or held_back_pairs(text) else Split.TRAIN


_Rule = Callable[[random.Random], str]


def _order(rng: random.Random) -> str:
    who = rng.choice([f"{rng.choice(NAMES)} please", "please", rng.choice(NAMES), ""])
    what = rng.choice(
        [
            f"{rng.choice(('open', 'shut'))} the {_thing(rng)}",
            f"turn {rng.choice(('on', 'off'))} the {rng.choice(('light', 'music', 'camera', 'phone'))}",
            f"turn the {_thing(rng)} {rng.choice(('on', 'off'))} {rng.choice(TIMES)}",
            f"{rng.choice(('start', 'stop', 'play'))} the music in the {rng.choice(PLACES)}",
            f"{rng.choice(('call', 'meet', 'find'))} {rng.choice(NAMES)} {_when(rng)}",
            f"bring {rng.choice(NAMES)} {_determiner(rng)} {_thing(rng)}",
            f"send {_determiner(rng)} {_thing(rng)} {_when(rng)}",
            f"find my {_thing(rng)} and call {rng.choice(NAMES)}",
            f"wait at the {rng.choice(PLACES)} {rng.choice(TIMES)}",
        ]
    )
    return f"{who} {what}"


def _number(rng: random.Random) -> str:
    digits = " ".join(rng.choices(NUMBERS, k=rng.randint(2, 6)))
    return rng.choice(
        [digits, f"the number is {digits}", f"call {digits}", f"room {digits}", f"my phone is {digits}"]
    )


def _question(rng: random.Random) -> str:
    return rng.choice(
        [
            f"where is {_determiner(rng)} {_thing(rng)}",
            f"when will you {rng.choice(('see', 'call', 'meet'))} {rng.choice(NAMES)}",
            f"when will the train leave the {rng.choice(PLACES)}",
            f"who is in the {rng.choice(PLACES)} {rng.choice(TIMES)}",
            f"what do {rng.choice(('you', 'we', 'they'))} need in the {rng.choice(PLACES)}",
            f"can you {rng.choice(('open', 'shut', 'find', 'see', 'bring'))} the {_thing(rng)}",
            f"how are you {rng.choice(TIMES)} {rng.choice(NAMES)}",
            f"do you {rng.choice(('have', 'want', 'need', 'see'))} {_determiner(rng)} {_thing(rng)}",
            f"will {rng.choice(NAMES)} meet {rng.choice(NAMES)}",
        ]
    )


def _statement(rng: random.Random) -> str:
    return rng.choice(
        [
            f"{rng.choice(('i', 'we', 'they'))} {rng.choice(('need', 'want', 'have'))} "
            f"{_determiner(rng)} {_thing(rng)} {_when(rng)}",
            f"{rng.choice(('i', 'we', 'they'))} will {rng.choice(('meet', 'call', 'see'))} "
            f"{rng.choice(NAMES)} {_when(rng)}",
            f"the {rng.choice((*THINGS, *PLACES))} is {rng.choice(('not ', ''))}{rng.choice(QUALITIES)}",
            f"the train will leave {_when(rng)}",
            f"{rng.choice(NAMES)} is {rng.choice(('happy', 'ready', 'quiet', 'cold'))} {rng.choice(TIMES)}",
            f"{rng.choice(NAMES)} and {rng.choice(NAMES)} will wait in the {rng.choice(PLACES)}",
            f"i can not see the {_thing(rng)}",
        ]
    )


def _talk(rng: random.Random) -> str:
    return rng.choice(
        [
            f"hello {rng.choice(NAMES)} this is {rng.choice(NAMES)}",
            f"good {rng.choice(('morning', 'evening'))} {rng.choice(NAMES)} how are you",
            f"i am {rng.choice(QUALITIES[:6])} thank you",
            f"yes i will {rng.choice(ACTIONS)} it {_when(rng)}",
            f"no sorry i have no {rng.choice(THINGS)} {rng.choice(TIMES)}",
            f"okay we are {rng.choice(('ready', 'happy'))} now",
            f"thank you {rng.choice(NAMES)} see you {_when(rng)}",
            f"yes please {rng.choice(ACTIONS)} my {_thing(rng)}",
        ]
    )


def _determiner(rng: random.Random) -> str:
    return rng.choice(("the", "my", "your", "this", "that", rng.choice(NUMBERS[1:])))


def _thing(rng: random.Random) -> str:
    thing = rng.choice(THINGS)
    return f"{rng.choice(QUALITIES)} {thing}" if rng.random() < 0.4 else thing


def _when(rng: random.Random) -> str:
    return rng.choice(
        [
            rng.choice(TIMES),
            f"on {rng.choice(DAYS)}",
            f"at {rng.choice(NUMBERS[1:])}",
            f"in the {rng.choice(('morning', 'evening', *PLACES))}",
            f"{rng.choice(('tomorrow', 'monday', 'friday'))} {rng.choice(('morning', 'evening'))}",
        ]
    )


def _free(rng: random.Random) -> str:
    # Short ones weigh more: they are what a window cut out of a recording looks like.
    count = min(rng.randint(1, MAX_FREE_WORDS), rng.randint(1, MAX_FREE_WORDS + 4))
    return " ".join(rng.choices(FREE_WORDS, k=count))


_RULES: Final[Sequence[_Rule]] = (_order, _number, _question, _statement, _talk)


def sentences(split: Split, seed: int, *, free: float = 0.5, min_words: int = 1) -> Iterator[str]:
    """An endless stream of sentences of ``split``, the same for the same arguments on any machine.

    Args:
        split: the side of the split.
        seed: where the stream starts.
        free: share in 0..1 of free word combinations; the rest follows the small grammar.
        min_words: the fewest words in a sentence, 1..8.
    """
    rng = random.Random(f"{split}:{seed}")
    while True:
        rule = _free if rng.random() < free else rng.choice(_RULES)
        text = " ".join(rule(rng).split())
        if text.count(" ") + 1 >= min_words and split_of(text) is split:
            yield text
