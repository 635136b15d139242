"""Whisper's languages: its codes in the order of its tokens, and the BCP-47 tags they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from orchestrator.engines.checks import language_in, primary_tag

CODES: Final = (
    *("en", "zh", "de", "es", "ru", "ko", "fr", "ja", "pt", "tr", "pl", "ca", "nl", "ar", "sv", "it", "id"),
    *("hi", "fi", "vi", "he", "uk", "el", "ms", "cs", "ro", "da", "hu", "ta", "no", "th", "ur", "hr", "bg"),
    *("lt", "la", "mi", "ml", "cy", "sk", "te", "fa", "lv", "bn", "sr", "az", "sl", "kn", "et", "mk", "br"),
    *("eu", "is", "hy", "ne", "mn", "bs", "kk", "sq", "sw", "gl", "mr", "pa", "si", "km", "sn", "yo", "so"),
    *("af", "oc", "ka", "be", "tg", "sd", "gu", "am", "yi", "lo", "uz", "fo", "ht", "ps", "tk", "nn", "mt"),
    *("sa", "lb", "my", "bo", "tl", "mg", "as", "tt", "haw", "ln", "ha", "ba", "jw", "su", "yue"),
)
"""The language tokens follow ``<|startoftranscript|>`` in this order. ``yue`` came with large-v3; weights
before it know the 99 others."""
ENGLISH_ONLY: Final = CODES[:1]
UNSPACED: Final = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Codes of languages whose words are not parted by spaces."""

_ENGLISH_VOCABULARY: Final = 51_864
"""Tokens of an English-only model; one with languages has 51,765 and one for each of them."""
_WITHOUT_LANGUAGES: Final = 51_766
_TAGS: Final = {"jw": "jv"}
"""Codes that BCP-47 has replaced."""
_ALIASES: Final = {
    "jv": "jw",
    "nb": "no",
    "iw": "he",
    "in": "id",
    "ji": "yi",
    "fil": "tl",
    "cmn": "zh",
    "mo": "ro",
}
"""Tags that mean a language of Whisper's, and its code."""


def codes_of(vocabulary: int) -> tuple[str, ...]:
    """The codes that weights know, from the number of their tokens; none where it is not Whisper's."""
    if vocabulary == _ENGLISH_VOCABULARY:
        return ENGLISH_ONLY
    count = vocabulary - _WITHOUT_LANGUAGES
    return CODES[:count] if 0 < count <= len(CODES) else ()


def tags_of(codes: Sequence[str]) -> tuple[str, ...]:
    """The codes' BCP-47 primary tags."""
    return tuple(_TAGS.get(code, code) for code in codes)


def code_in(codes: Sequence[str], requested: str, model: str) -> str:
    """The code among ``codes`` of the language ``requested``, a BCP-47 tag.

    Raises:
        UnsupportedLanguageError: there is none.
    """
    tag = primary_tag(requested)
    if (alias := _ALIASES.get(tag)) in codes:
        return str(alias)
    if tag in codes:
        return tag
    return language_in(tags_of(codes), requested, model)
