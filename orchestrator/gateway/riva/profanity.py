"""Riva's profanity filter: each word of a list becomes its first letter and asterisks."""

from __future__ import annotations

from typing import Any, Final

from glin_profanity import Filter

_LISTS: Final = {
    "ar": "arabic",
    "cs": "czech",
    "da": "danish",
    "de": "german",
    "en": "english",
    "eo": "esperanto",
    "es": "spanish",
    "fa": "persian",
    "fi": "finnish",
    "fr": "french",
    "hi": "hindi",
    "hu": "hungarian",
    "it": "italian",
    "ja": "japanese",
    "ko": "korean",
    "nl": "dutch",
    "no": "norwegian",
    "pl": "polish",
    "pt": "portuguese",
    "ru": "russian",
    "sv": "swedish",
    "th": "thai",
    "tr": "turkish",
    "zh": "chinese",
}
"""Primary language tag to glin-profanity's name of its word list."""


def knows(language: str) -> bool:
    """Whether there is a word list of a language, given by its primary tag."""
    return language in _LISTS


class ProfanityFilter:
    """The word list of one language."""

    def __init__(self, language: str) -> None:
        """Load the list of ``language``, a primary tag for which `knows` is true."""
        config: Any = {
            "languages": [_LISTS[language]],
            # Recognisers write words as they are spelt; guessing at disguises only hits innocent words.
            "detect_leetspeak": False,
            "allow_obfuscated_match": False,
        }
        self._filter = Filter(config)

    def masked(self, word: str) -> str:
        """``word`` (letters only, without punctuation) or, where it is in the list, ``f***``."""
        return word[0] + "*" * (len(word) - 1) if word and self._filter.is_profane(word) else word
