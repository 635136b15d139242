"""Estimated word times are measured where a server has an aligner; what fails loses nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import anyio
import numpy as np
import pytest

from orchestrator.client.alignment import WordTimer, aligner_of
from orchestrator.client.assemble import About, join_windows, transcript
from orchestrator.client.catalog import ModelCard
from orchestrator.client.engines.board import EngineBoard
from orchestrator.client.windows import Window
from orchestrator.contract import SAMPLE_RATE_HZ, Task
from orchestrator.engines.alignment.base import AlignedWord, Alignment
from orchestrator.engines.base import Recognition, RecognizedWord, Samples
from orchestrator.engines.spread import CONFIDENCE
from orchestrator.errors import AudioTooLongError, ServerUnavailableError, ServiceError, SpeechError
from orchestrator.settings_engines import RoutingSettings

CARD = ModelCard("aligner", True, task=Task.ALIGN, engine="aligner", languages=("en",), max_window_s=30.0)
AUDIO = np.zeros(2 * SAMPLE_RATE_HZ, dtype=np.float32)
SPREAD = Recognition(
    (RecognizedWord("hello", 0, 900, CONFIDENCE), RecognizedWord("42", 900, 1800, CONFIDENCE)), "en", True
)


class Server:
    """A transport whose aligner answers, or fails."""

    host = "spark:8001"

    def __init__(self, error: SpeechError | None = None, hangs: bool = False) -> None:
        self.asked: list[Sequence[str]] = []
        self._error = error
        self._hangs = hangs

    async def align(
        self, model: str, samples: Samples, words: Sequence[str], options: Any, *, pcm16: bool = False
    ) -> Alignment:
        self.asked.append(words)
        if self._hangs:
            await anyio.sleep_forever()
        if self._error is not None:
            raise self._error
        return (AlignedWord(100, 500, 0.9, True), AlignedWord(500, 1500, 0.0, False))


def timed(
    server: Server, recognition: Recognition = SPREAD, card: ModelCard | None = CARD, limit_s: float = 60.0
) -> tuple[Recognition, WordTimer]:
    async def run() -> tuple[Recognition, WordTimer]:
        timer = WordTimer(server, EngineBoard(RoutingSettings()), card, limit_s)  # type: ignore[arg-type]
        return await timer.timed(AUDIO, recognition, pcm16=True), timer

    return asyncio.run(run())


def test_words_get_measured_times_and_those_that_were_not_found_stay_estimated() -> None:
    found, timer = timed(Server())
    assert not found.times_estimated
    assert found.words[0] == RecognizedWord("hello", 100, 500, 0.9, estimated=False)
    assert found.words[1] == RecognizedWord("42", 500, 1500, CONFIDENCE, estimated=True)
    written = timer.recorded(transcript(found, None, About("a.wav", 2.0, "moonshine")))
    assert not written.times_estimated
    assert [word.times_estimated for word in written.words] == [None, True]
    assert written.alignment is not None
    assert written.alignment.model_dump() == {"model": "aligner", "words": 2, "measured": 1, "failed": None}


def test_an_engine_that_says_how_sure_it_is_keeps_that() -> None:
    sure = Recognition((RecognizedWord("a", 0, 9, 0.7), RecognizedWord("b", 9, 19, 0.5)), "en", True)
    assert [word.confidence for word in timed(Server(), sure)[0].words] == [0.7, 0.5]


@pytest.mark.parametrize(
    "error",
    [ServerUnavailableError("gone"), AudioTooLongError("too long")],
    ids=lambda error: type(error).__name__,
)
def test_an_aligner_that_fails_leaves_the_words_as_they_are_and_says_so(
    error: SpeechError, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found, timer = timed(Server(error))
    assert found == SPREAD
    assert "word times stay estimated" in caplog.text
    written = timer.recorded(transcript(found, None, About("a.wav", 2.0, "moonshine")))
    assert written.times_estimated
    assert written.alignment is not None
    assert (written.alignment.measured, written.alignment.failed) == (0, error.message)


def test_an_aligner_that_does_not_answer_is_given_up() -> None:
    found, timer = timed(Server(hangs=True), limit_s=0.01)
    assert found == SPREAD
    written = timer.recorded(transcript(found, None, About("a.wav", 2.0, "moonshine")))
    assert written.alignment is not None
    assert written.alignment.failed is not None


@pytest.mark.parametrize(
    "card",
    [
        None,
        ModelCard("aligner", True, task=Task.ALIGN, engine="aligner", languages=("kn",)),
        ModelCard("aligner", True, task=Task.ALIGN, engine="aligner", max_window_s=1.0),
    ],
    ids=["none", "language", "window"],
)
def test_an_aligner_that_cannot_do_it_is_not_asked(card: ModelCard | None) -> None:
    server = Server()
    found, timer = timed(server, card=card)
    assert found == SPREAD
    assert not server.asked
    written = timer.recorded(transcript(found, None, About("a.wav", 2.0, "moonshine")))
    assert written.alignment is not None
    assert written.alignment.failed is not None


def test_a_closed_client_is_no_reason_to_go_on() -> None:
    with pytest.raises(ServiceError):
        timed(Server(ServiceError("closed")))


def test_measured_times_are_left_alone() -> None:
    server = Server()
    measured = Recognition(SPREAD.words, "en", False)
    found, timer = timed(server, measured)
    assert found == measured
    assert not server.asked
    written = transcript(found, None, About("a.wav", 2.0, "parakeet"))
    assert timer.recorded(written) == written


def test_a_window_that_failed_does_not_make_the_others_words_estimated() -> None:
    aligned, _ = timed(Server())
    windows = (Window(0, 32_000, 0), Window(32_000, 64_000, 32_000))
    whole = join_windows(windows, [aligned, SPREAD])
    written = transcript(whole, None, About("a.wav", 4.0, "moonshine"))
    assert written.times_estimated
    assert [word.estimated_in(written) for word in written.words] == [False, True, True, True]
    assert written.words[2].start == 2.0


def test_the_aligner_with_the_lowest_rank_is_asked() -> None:
    best = ModelCard("b", True, task=Task.ALIGN, engine="aligner", rank=1)
    away = ModelCard("c", False, task=Task.ALIGN, engine="aligner", rank=0)
    other = ModelCard("d", True, task=Task.RECOGNIZE, engine="moonshine", rank=0)
    assert aligner_of([CARD, best, away, other]) == best
    assert aligner_of([away, other]) is None
