from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import RecognitionOptions, RecognizedWord, Samples
from orchestrator.engines.whisper.languages import CODES
from orchestrator.engines.whisper.quality import Decoding, Effort
from orchestrator.engines.whisper.recognizer import WhisperRecognizer
from orchestrator.engines.whisper.windows import Window
from orchestrator.errors import UnsupportedLanguageError

SECOND = SAMPLE_RATE_HZ


class Finder:
    """Every 10 s of sound are a window."""

    def windows(self, batch: Sequence[Samples]) -> list[list[Window]]:
        return [
            [Window(first, one[first : first + 10 * SECOND]) for first in range(0, one.size, 10 * SECOND)]
            for one in batch
        ]


class Scripted(WhisperRecognizer):
    """Says what a script says for the first sample of a window, effort by effort."""

    def __init__(
        self, script: Mapping[float, Sequence[Decoding]], codes: Sequence[str] = CODES, **more
    ) -> None:
        super().__init__("whisper_ct2", codes, batch_size=2, finder=Finder(), **more)  # type: ignore[arg-type]
        self.script = script
        self.asked: list[tuple[int, str, Effort]] = []
        self.heard: list[int] = []

    def _detect(self, windows: Sequence[Samples]) -> Sequence[Mapping[str, float]]:
        self.heard.append(len(windows))
        return [{"de": float(window[0]), "jw": 1 - float(window[0])} for window in windows]

    def _decode(self, windows: Sequence[Samples], code: str, effort: Effort) -> Sequence[Decoding]:
        self.asked.append((len(windows), code, effort))
        rung = self._ladder.index(effort)
        return [self.script[round(float(window[0]), 2)][rung] for window in windows]


def said(text: str, likelihood: float = -0.2, no_speech: float = 0.0) -> Decoding:
    words = [RecognizedWord(word, n * 500, n * 500 + 400, 0.9) for n, word in enumerate(text.split())]
    return Decoding(tuple(words), likelihood, no_speech)


def sound(value: float, seconds: float = 10) -> Samples:
    return np.full(int(seconds * SECOND), value, np.float32)


LOOP = said("thank you very much " * 12)
SCRIPT = {
    0.9: [said("guten tag")],
    0.8: [said("auf wiedersehen")],
    0.1: [said("sugeng enjing")],
    0.3: [LOOP, said("no loop now")],
    0.4: [LOOP, LOOP],
    0.5: [said("mumble", -3.0, no_speech=0.9)],
    0.6: [said("guess", -1.5), said("better guess", -1.2)],
}


def test_windows_become_one_recording_in_its_time() -> None:
    engine = Scripted(SCRIPT)
    (one,) = engine.recognize(
        [np.concatenate([sound(0.9), sound(0.8)])], RecognitionOptions(language="de-DE")
    )
    assert one.text == "guten tag auf wiedersehen"
    assert [word.start_ms for word in one.words] == [0, 500, 10_000, 10_500]
    assert (one.language, one.language_confidence) == ("de", None)
    assert engine.heard == [], "a language that is given is not looked for"


def test_the_language_is_found_out_by_recording_and_weighted_by_length() -> None:
    engine = Scripted(SCRIPT)
    german, javanese, mixed = engine.recognize(
        [sound(0.9), sound(0.1), np.concatenate([sound(0.9), sound(0.1, 5)])]
    )
    assert (german.language, german.language_confidence) == ("de", pytest.approx(0.9))
    assert (javanese.language, javanese.language_confidence) == ("jv", pytest.approx(0.9))
    assert (mixed.language, mixed.language_confidence) == ("de", pytest.approx((0.9 * 10 + 0.1 * 5) / 15))
    assert {code for _, code, _ in engine.asked} == {"de", "jw"}
    assert max(engine.heard) <= 2, "no more windows at once than asked for"
    assert max(count for count, _, _ in engine.asked) <= 2


def test_only_the_language_when_only_that_is_wanted() -> None:
    engine = Scripted(SCRIPT)
    (guess,) = engine.recognize([sound(0.9)], RecognitionOptions(detect_only=True))
    assert (guess.words, guess.language) == ((), "de")
    assert engine.asked == []


def test_a_loop_is_tried_again_and_only_the_loop() -> None:
    engine = Scripted(SCRIPT)
    (one,) = engine.recognize([np.concatenate([sound(0.9), sound(0.3)])], RecognitionOptions(language="de"))
    assert one.text == "guten tag no loop now"
    assert engine.asked == [(2, "de", Effort()), (1, "de", Effort(no_repeats=True))]


def test_a_loop_that_stays_is_said_once_and_a_guess_is_the_likeliest() -> None:
    engine = Scripted(SCRIPT)
    loop, guess, nothing = engine.recognize(
        [sound(0.4), sound(0.6), sound(0.5)], RecognitionOptions(language="en")
    )
    assert loop.text == "thank you very much"
    assert guess.text == "better guess"
    assert nothing.words == ()


def test_drawn_texts_come_last_and_only_where_they_are_wanted() -> None:
    script = {0.4: [LOOP, LOOP, said("drawn")]}
    (one,) = Scripted(script, temperatures=[0.5]).recognize([sound(0.4)], RecognitionOptions(language="en"))
    assert one.text == "drawn"


def test_alone_and_in_a_batch_the_words_are_the_same() -> None:
    batch = [sound(value) for value in SCRIPT]
    together = Scripted(SCRIPT).recognize(batch)
    assert together == [Scripted(SCRIPT).recognize([one])[0] for one in batch]


def test_silence_has_no_words_and_no_sure_language() -> None:
    engine = Scripted(SCRIPT)
    assert engine.recognize([]) == []
    (one,) = engine.recognize([np.zeros(0, np.float32)])
    assert (one.words, one.language_confidence) == ((), 0.0)


def test_english_weights_know_english_and_need_not_find_it_out() -> None:
    engine = Scripted({0.9: [said("good day")]}, codes=CODES[:1])
    assert engine.info.languages == ("en",)
    (one,) = engine.recognize([sound(0.9)])
    assert (one.text, one.language, one.language_confidence) == ("good day", "en", None)
    assert engine.heard == []
    with pytest.raises(UnsupportedLanguageError, match="'de'"):
        engine.recognize([sound(0.9)], RecognitionOptions(language="de"))
