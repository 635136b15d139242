"""The hook of a live stream, with a diarizer that knows voices by the level of their samples."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import numpy as np
import pytest

from orchestrator.client.stream import speakers as module
from orchestrator.client.stream.relabel import Kept, relabelled
from orchestrator.client.stream.speakers import LiveSpeakers, SpeakerOptions, label_segment
from orchestrator.diarization.base import Diarization, DiarizationOptions, SpeakerTurn
from orchestrator.diarization.labels import NO_SPEAKER
from orchestrator.diarization.online import OnlineOptions
from orchestrator.errors import ServerUnavailableError
from orchestrator.transcript.models import Segment, Word

Result = TypeVar("Result")
PER_MS = 16
LEVELS = (0.1, 0.2, 0.3, 0.4)
"""A person's samples all have this value."""
SLOW_S = 0.05
"""What a final waits in these tests for an answer that does not come."""
LONG_S = 2.0
"""The same where the time is measured: a busy machine adds to it."""


class FakeDiarizer:
    """Hears each level as a person; answers after ``delay_s``, or fails."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []
        self.delay_s = 0.0
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.cancelled = 0

    async def __call__(self, samples: np.ndarray, options: DiarizationOptions) -> Diarization:
        self.asked.append((len(samples) // PER_MS, options.mode))
        assert options.mode == "recording" or len(samples) <= 10_000 * PER_MS
        try:
            await asyncio.sleep(self.delay_s)
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        turns, people = [], []
        for level in sorted(LEVELS, key=lambda level: -level):  # not in order of appearance
            edges = np.flatnonzero(
                np.diff(np.isclose(samples, level, atol=1e-3), prepend=False, append=False)
            )
            if edges.size:
                people.append(np.eye(len(LEVELS))[LEVELS.index(level)])
            for begin, end in edges.reshape(-1, 2).tolist():
                turns.append(SpeakerTurn(begin // PER_MS, end // PER_MS, len(people) - 1))
        ordered = tuple(sorted(turns, key=lambda turn: turn.start_ms))
        return Diarization(ordered, ordered, np.array(people, np.float32).reshape(-1, len(LEVELS)))


def utterance(start_ms: int, *said: tuple[int, int]) -> tuple[Segment, np.ndarray]:
    """Words of ``(person, length_ms)`` one after the other: the segment and its audio."""
    words, parts, now = [], [], start_ms
    for person, length in said:
        words.append(Word(start=now / 1000, end=(now + length) / 1000, text=f"w{len(words)}"))
        parts.append(np.full(length * PER_MS, LEVELS[person] * 32_768, np.int16))
        now += length
    text = " ".join(word.text for word in words)
    return Segment(start=start_ms / 1000, end=now / 1000, text=text, words=tuple(words)), np.concatenate(
        parts
    )


def names(segment: Segment) -> list[str | None]:
    return [word.speaker for word in segment.words]


def live(
    job: Callable[[LiveSpeakers, FakeDiarizer], Awaitable[Result]],
    options: SpeakerOptions | None = None,
) -> Result:
    """Run ``job`` on a new stream, and see that it leaves no task."""

    async def run() -> Result:
        diarizer = FakeDiarizer()
        speakers = LiveSpeakers(diarizer, options or SpeakerOptions(wait_s=60))
        try:
            return await job(speakers, diarizer)
        finally:
            await speakers.aclose()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left

    return asyncio.run(run())


async def say(speakers: LiveSpeakers, number: int, start_ms: int, *said: tuple[int, int]) -> Segment:
    segment, audio = utterance(start_ms, *said)
    speakers.hear(start_ms, audio)
    speakers.submit(number, segment, audio)
    return await speakers.final(number)


async def until_asked(diarizer: FakeDiarizer) -> None:
    while not diarizer.asked:
        await asyncio.sleep(0.001)


def test_finals_have_the_same_names_over_the_whole_stream() -> None:
    async def job(speakers: LiveSpeakers, diarizer: FakeDiarizer) -> list[Segment]:
        return [
            await say(speakers, 0, 0, (0, 1500), (0, 1000)),
            await say(speakers, 1, 4000, (1, 2000)),
            await say(speakers, 2, 8000, (0, 1500), (1, 2500), (1, 500)),
            await say(speakers, 5, 20_000, (1, 300)),
        ]

    finals = live(job)
    assert [names(final) for final in finals] == [
        ["SPEAKER_00"] * 2,
        ["SPEAKER_01"],
        ["SPEAKER_00", "SPEAKER_01", "SPEAKER_01"],
        ["SPEAKER_01"],
    ]
    # An utterance's own speaker says most of it.
    assert [final.speaker for final in finals] == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_01", "SPEAKER_01"]
    assert [word.text for word in finals[2].words] == ["w0", "w1", "w2"]
    assert all(word.speaker_confidence == 1.0 for final in finals for word in final.words)


def test_a_long_utterance_is_asked_about_in_windows_with_what_came_before() -> None:
    async def job(speakers: LiveSpeakers, diarizer: FakeDiarizer) -> tuple[Segment, list[tuple[int, str]]]:
        await say(speakers, 0, 0, (0, 2000))
        final = await say(speakers, 1, 3000, (0, 9000), (1, 9000), (0, 2000))
        return final, diarizer.asked

    final, asked = live(job)
    assert names(final) == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_00"]
    assert asked == [(2000, "local")] + [(10_000, "local")] * 3


def test_a_long_utterance_is_asked_about_while_it_goes_on() -> None:
    async def job(speakers: LiveSpeakers, diarizer: FakeDiarizer) -> None:
        segment, audio = utterance(1000, (0, 9000), (1, 9000), (0, 2000))
        asked = []
        for end_ms in range(1500, 21_000, 500):
            partial = segment.model_copy(update={"end": end_ms / 1000})
            speakers.ongoing(partial, lambda begin, end: audio[(begin - 1000) * 16 : (end - 1000) * 16])
            await speakers.settle()
            asked.append(len(diarizer.asked))
        assert asked[12:14] == [0, 1]  # 7 s of partial: 6.5 s that no longer move
        assert asked[-1] == 2
        speakers.submit(0, segment, audio)
        assert names(await speakers.final(0)) == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_00"]
        assert diarizer.asked == [(7500, "local"), (10_000, "local"), (10_000, "local")]
        assert speakers.corrections() == []

    live(job)


def test_a_late_answer_is_a_correction_and_does_not_hold_the_final() -> None:
    async def job(speakers: LiveSpeakers, diarizer: FakeDiarizer) -> None:
        news = asyncio.Event()
        speakers.watch(news.set)
        diarizer.gate = asyncio.Event()
        final = await say(speakers, 0, 0, (0, 2000))
        assert names(final) == [None]
        assert final.speaker is None
        assert speakers.corrections() == []
        diarizer.gate.set()
        await asyncio.wait_for(news.wait(), 60)
        ((number, corrected),) = speakers.corrections()
        assert number == 0
        assert names(corrected) == ["SPEAKER_00"]
        assert corrected.text == final.text
        assert speakers.corrections() == []

    live(job, SpeakerOptions(wait_s=SLOW_S))


def test_waits_do_not_add_up_and_what_waits_is_asked_about_together() -> None:
    async def job(speakers: LiveSpeakers, diarizer: FakeDiarizer) -> None:
        diarizer.gate = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in range(6):
            speakers.submit(number, *utterance(number * 1000, (number % 2, 800)))
        begin = loop.time()
        for number in range(6):
            assert names(await speakers.final(number)) == [None]
        assert loop.time() - begin < 5 * LONG_S  # six waits one after the other would be six of them
        diarizer.gate.set()
        found = dict(await speakers.finish())
        assert [names(found[number]) for number in range(6)] == [["SPEAKER_00"], ["SPEAKER_01"]] * 3
        assert diarizer.asked == [(5800, "local")]

    live(job, SpeakerOptions(wait_s=LONG_S))


def test_a_correction_of_an_earlier_utterance_is_told() -> None:
    async def job(speakers: LiveSpeakers, diarizer: FakeDiarizer) -> None:
        await say(speakers, 0, 0, (0, 3000))
        short = await say(speakers, 1, 4000, (1, 600))  # too short to be anybody new
        assert names(short) == [None]
        assert speakers.corrections() == []
        assert names(await say(speakers, 2, 6000, (1, 3000))) == ["SPEAKER_01"]
        ((number, corrected),) = speakers.corrections()
        assert (number, names(corrected)) == (1, ["SPEAKER_01"])

    live(job)


def test_no_correction_behind_the_horizon() -> None:
    async def job(speakers: LiveSpeakers, diarizer: FakeDiarizer) -> None:
        await say(speakers, 0, 0, (0, 3000))
        await say(speakers, 1, 4000, (1, 600))
        await say(speakers, 2, 16_000, (1, 3000))
        assert speakers.corrections() == []

    live(job, SpeakerOptions(wait_s=60, online=OnlineOptions(horizon_s=10)))


def test_words_go_on_without_speakers_while_the_diarizer_is_away_and_it_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AWAY_S", 3600)

    async def job(speakers: LiveSpeakers, diarizer: FakeDiarizer) -> None:
        diarizer.error = ServerUnavailableError("nobody answers", fix="start it")
        for number in range(4):
            assert names(await say(speakers, number, number * 3000, (0, 2000))) == [None]
        assert len(diarizer.asked) == 1  # the others did not even ask
        speakers._away_until_s = 0.0  # the time is over
        await say(speakers, 4, 12_000, (0, 2000))
        assert len(diarizer.asked) == 2
        diarizer.error = None
        speakers._away_until_s = 0.0
        assert names(await say(speakers, 5, 15_000, (0, 2000))) == ["SPEAKER_00"]
        assert await speakers.finish() == ()

    with caplog.at_level(logging.WARNING):
        live(job)
    (told,) = caplog.records
    assert told.getMessage().startswith("words go on without speakers: nobody answers")


def test_a_diarizer_that_is_far_behind_leaves_out_the_oldest() -> None:
    async def job(speakers: LiveSpeakers, diarizer: FakeDiarizer) -> None:
        diarizer.gate = asyncio.Event()
        await say(speakers, 0, 0, (0, 2000))
        await until_asked(diarizer)
        for number in range(1, 5):
            await say(speakers, number, number * 30_000, (0, 2000))
        diarizer.gate.set()
        found = dict(await speakers.finish())
        assert sorted(found) == [0, 2, 3, 4]  # 0 was on its way, 1 is over a minute old

    live(job, SpeakerOptions(wait_s=0.01))


def test_closing_cancels_the_request() -> None:
    async def job(speakers: LiveSpeakers, diarizer: FakeDiarizer) -> FakeDiarizer:
        diarizer.delay_s = 60
        await say(speakers, 0, 0, (0, 2000))
        await until_asked(diarizer)
        await speakers.aclose()
        return diarizer

    assert live(job, SpeakerOptions(wait_s=0.01)).cancelled == 1


def test_a_cancelled_final_leaves_no_task() -> None:
    async def job(speakers: LiveSpeakers, diarizer: FakeDiarizer) -> FakeDiarizer:
        diarizer.delay_s = 60
        waiting = asyncio.create_task(say(speakers, 0, 0, (0, 2000)))
        await until_asked(diarizer)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return diarizer

    assert live(job).cancelled == 1


def test_the_end_does_not_wait_for_ever() -> None:
    async def job(speakers: LiveSpeakers, diarizer: FakeDiarizer) -> None:
        diarizer.delay_s = 60
        await say(speakers, 0, 0, (0, 2000))
        assert await speakers.finish() == ()

    live(job, SpeakerOptions(wait_s=0.01, finish_s=0.02))


def test_little_is_kept_of_a_long_stream_also_while_the_diarizer_is_away() -> None:
    async def job(speakers: LiveSpeakers, diarizer: FakeDiarizer) -> None:
        for number in range(60):
            if number == 30:
                diarizer.error = ServerUnavailableError("nobody answers", fix="start it")
            await say(speakers, number, number * 5000, (number % 2, 3000))
        assert len(speakers._utterances) < 12
        assert len(speakers._recent) < 6

    live(job)


def test_relabelling_corrects_everything_and_keeps_the_names() -> None:
    async def job(speakers: LiveSpeakers, diarizer: FakeDiarizer) -> None:
        await say(speakers, 0, 0, (2, 3000))
        await say(speakers, 1, 4000, (1, 600))
        diarizer.error = ServerUnavailableError("nobody answers", fix="start it")
        await say(speakers, 2, 16_000, (3, 2000), (2, 1000))
        diarizer.error = None
        found = dict(await speakers.finish())
        # The fake numbers by level: without keeping names, 0 would not be SPEAKER_00.
        assert {number: names(segment) for number, segment in found.items()} == {
            1: ["SPEAKER_01"],
            2: ["SPEAKER_02", "SPEAKER_00"],
        }
        assert diarizer.asked[-1] == (19_000, "recording")

    live(job, SpeakerOptions(wait_s=60, relabel=True, online=OnlineOptions(horizon_s=10)))


def test_relabelling_that_fails_or_is_too_long_leaves_the_names(caplog: pytest.LogCaptureFixture) -> None:
    async def job(speakers: LiveSpeakers, diarizer: FakeDiarizer) -> int:
        assert names(await say(speakers, 0, 0, (2, 3000))) == ["SPEAKER_00"]
        diarizer.error = ServerUnavailableError("nobody answers", fix="start it")
        assert await speakers.finish() == ()
        return len(diarizer.asked)

    assert live(job, SpeakerOptions(wait_s=60, relabel=True)) == 2
    assert live(job, SpeakerOptions(wait_s=60, relabel=True, relabel_max_s=2.9)) == 1
    assert "longer than 3 s" in caplog.records[-1].getMessage()


def test_kept_audio_is_in_its_place_and_audio_that_comes_again_changes_nothing() -> None:
    kept = Kept(60)
    assert kept.audio() is None
    kept.add(100, np.full(80, 16_384, np.int16))
    kept.add(100, np.concatenate((np.full(80, -1, np.int16), np.full(80, 16_384, np.int16))))
    kept.add(100, np.full(48, -1, np.int16))
    kept.add(200, np.full(1, -32_768, np.int16))
    audio = kept.audio()
    assert audio is not None
    assert audio.dtype == np.float32
    assert len(audio) == 201 * PER_MS
    np.testing.assert_allclose(audio[[0, 1600, 1759, 1760, 3200]], [0, 0.5, 0.5, 0, -1], atol=1e-6)


def test_speakers_of_the_whole_take_the_numbers_of_those_they_share_most_with() -> None:
    turns = (SpeakerTurn(0, 1000, 0), SpeakerTurn(1000, 3000, 1), SpeakerTurn(3000, 4000, 2))
    known = (SpeakerTurn(0, 900, 4), SpeakerTurn(900, 2900, 3), SpeakerTurn(3000, 4000, NO_SPEAKER))
    found = relabelled(Diarization(turns, turns[:2], np.zeros((3, 2), np.float32)), known)
    assert [turn.speaker for turn in found.turns] == [4, 3, 5]
    assert [turn.speaker for turn in found.exclusive] == [4, 3]


def test_words_of_somebody_unknown_do_not_fall_to_the_next_turn() -> None:
    segment, _ = utterance(0, (0, 1000), (0, 400))
    turns = (SpeakerTurn(0, 1000, 7), SpeakerTurn(1000, 1400, NO_SPEAKER))
    labelled = label_segment(segment, turns, turns)
    assert names(labelled) == ["SPEAKER_07", None]
    assert labelled.words[1].speaker_confidence is None
    assert labelled.speaker == "SPEAKER_07"
