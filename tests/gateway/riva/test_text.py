from __future__ import annotations

import pytest

from orchestrator.gateway.riva.errors import RpcError
from orchestrator.gateway.riva.text import TextRules, Writer
from orchestrator.transcript.models import Word


def words(text: str, gap: float = 0.0) -> list[Word]:
    return [
        Word(text=part, start=at * (0.2 + gap), end=at * (0.2 + gap) + 0.2, confidence=0.5 + at / 100)
        for at, part in enumerate(text.split())
    ]


def written(rules: TextRules, text: str, language: str | None = "en", gap: float = 0.0) -> str:
    return " ".join(word.text for word in Writer(rules).words(words(text, gap), language))


VERBATIM = TextRules(punctuation=True)
PLAIN = TextRules(punctuation=False)
DIGITS = TextRules(punctuation=True, digits=True)
MASKED = TextRules(punctuation=True, mask=True)


def test_as_it_is() -> None:
    text = "Well, “it's” fifty-two; or 3.5%? -- No!"
    assert written(VERBATIM, text) == text


def test_without_punctuation() -> None:
    assert written(PLAIN, "Well, “it's” fifty-two; or 3.5%? -- No! ¿Qué?") == (
        "well it's fifty-two or 3.5% no qué"
    )


@pytest.mark.parametrize(
    ("language", "spoken", "expected"),
    [
        ("en", "I have twenty-three cows, and one dog.", "I have 23 cows, and one dog."),
        ("en-GB", "It is (one hundred five), Ada.", "It is (105), Ada."),
        ("en", "On the twenty first, we met.", "On the 21st, we met."),
        ("en", "Nothing here.", "Nothing here."),
        ("en", "five, twenty. six", "5, 20. 6"),
        ("de", "Ich habe fünfundzwanzig Kühe.", "Ich habe 25 Kühe."),
        ("ru", "двадцать пять", "двадцать пять"),
        (None, "twenty five", "twenty five"),
    ],
)
def test_numbers(language: str | None, spoken: str, expected: str) -> None:
    assert written(DIGITS, spoken, language) == expected


def test_a_pause_or_another_speaker_parts_two_numbers() -> None:
    assert written(DIGITS, "twenty five") == "25"
    assert written(DIGITS, "twenty five", gap=1.0) == "20 5"
    twenty, five = words("twenty five")
    parted = Writer(DIGITS).words(
        [twenty.model_copy(update={"speaker": "a"}), five.model_copy(update={"speaker": "b"})], "en"
    )
    assert [(word.text, word.speaker) for word in parted] == [("20", "a"), ("5", "b")]


def test_a_number_has_the_time_of_its_words() -> None:
    number = Writer(DIGITS).words(words("one hundred five cows"), "en")[0]
    assert (number.text, number.start, number.end) == ("105", 0.0, pytest.approx(0.6))
    assert number.confidence == 0.5


def test_profanity() -> None:
    assert written(MASKED, "Well, shit! What a class act, Fucking.", "en-US") == (
        "Well, s***! What a class act, F******."
    )
    assert written(TextRules(mask=True), "Well, shit!") == "well s***"
    assert written(MASKED, "So ein Arschloch.", "de") == "So ein A********."


@pytest.mark.parametrize("language", ["kn", None])
def test_profanity_of_an_unknown_language_is_never_let_through(language: str | None) -> None:
    with pytest.raises(RpcError, match="profanity_filter: there is no word list"):
        written(MASKED, "something", language)


def test_nothing() -> None:
    assert Writer(TextRules(digits=True, mask=True)).words([], "en") == []
