from __future__ import annotations

import pytest

from orchestrator.engines.whisper.languages import CODES, UNSPACED, code_in, codes_of, tags_of
from orchestrator.errors import UnsupportedLanguageError


def test_the_order_is_that_of_the_tokens() -> None:
    import _pywhispercpp as whisper_cpp  # its table is in the same order

    count = whisper_cpp.whisper_lang_max_id() + 1
    assert [whisper_cpp.whisper_lang_str(number) for number in range(count)] == list(CODES)
    assert set(CODES) >= UNSPACED


@pytest.mark.parametrize(
    ("vocabulary", "count"), [(51_864, 1), (51_865, 99), (51_866, 100), (51_867, 0), (32_000, 0), (0, 0)]
)
def test_the_number_of_tokens_says_which_languages_weights_know(vocabulary: int, count: int) -> None:
    assert codes_of(vocabulary) == CODES[:count]


@pytest.mark.parametrize(
    ("tag", "code"),
    [("en-GB", "en"), ("kn_IN", "kn"), ("nb-NO", "no"), ("jv", "jw"), ("fil", "tl"), ("YUE", "yue")],
)
def test_a_tag_finds_its_code(tag: str, code: str) -> None:
    assert code_in(CODES, tag, "whisper_ct2") == code


def test_what_the_weights_do_not_know_is_refused() -> None:
    for codes, tag in ((CODES, "tlh"), (CODES[:1], "de"), (CODES[:99], "yue"), (CODES[:1], "jv")):
        with pytest.raises(UnsupportedLanguageError, match=tag):
            code_in(codes, tag, "whisper_ct2")


def test_tags_are_those_of_today() -> None:
    assert tags_of(("en", "jw")) == ("en", "jv")
    assert all(code_in(CODES, tag, "x") == code for code, tag in zip(CODES, tags_of(CODES), strict=True))
