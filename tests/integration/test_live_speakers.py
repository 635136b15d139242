"""Speakers of live streams with the real diarizer, in this process and behind a real server.

The speech is pyannote.audio's own sample: 30 s of telephone, two speakers, turns known. Nothing was tuned
on it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from orchestrator.bench import online_speakers as bench
from orchestrator.bench.diarization import score
from orchestrator.bench.recordings import packaged
from orchestrator.client.stream.speakers import LiveSpeakers, SpeakerOptions
from orchestrator.client.triton import TritonTransport
from orchestrator.diarization import DiarizationOptions, Diarizer, load
from orchestrator.errors import AudioTooLongError
from orchestrator.repository.plan import version_folder
from orchestrator.transcript.models import Segment, Word

pytestmark = pytest.mark.integration

LOCAL = DiarizationOptions(mode="local")


@pytest.fixture(scope="module")
def model(default_release: Any) -> Path:
    folder: Path = default_release.model_repository / version_folder("diarizer")
    return folder


@pytest.fixture(scope="module")
def diarizer(model: Path) -> Diarizer:
    return load(model, threads=2)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    samples, rate = soundfile.read(packaged().audio, dtype="float32")
    assert rate == 16_000
    return samples


def test_a_local_window_tells_its_speakers_apart(diarizer: Diarizer, speech: np.ndarray) -> None:
    found = diarizer.diarize(speech[int(11.2 * 16_000) : int(21.2 * 16_000)], LOCAL)
    assert found.num_speakers == 2
    assert list(dict.fromkeys(turn.speaker for turn in found.turns)) == [0, 1]
    one, two = found.embeddings / np.linalg.norm(found.embeddings, axis=1, keepdims=True)
    assert one @ two < 0.5
    # The reference: one speaks until 14.7 s, the other from 14.5 s to 17.9 s, the first again to 21.5 s.
    speaking = {
        moment: {t.speaker for t in found.exclusive if t.start_ms <= moment < t.end_ms}
        for moment in (2000, 5000, 8500)
    }
    assert speaking == {2000: {0}, 5000: {1}, 8500: {0}}
    assert all(0 <= t.start_ms < t.end_ms <= 10_000 for t in (*found.turns, *found.exclusive))
    ends = [t.end_ms for t in found.exclusive]
    assert all(t.start_ms >= end for t, end in zip(found.exclusive[1:], ends, strict=False))


@pytest.mark.parametrize("seconds", [0.05, 0.3, 1.2])
def test_a_local_window_may_be_short(diarizer: Diarizer, speech: np.ndarray, seconds: float) -> None:
    begin = 11 * 16_000
    found = diarizer.diarize(speech[begin : begin + int(seconds * 16_000)], LOCAL)
    assert found.embeddings.shape == (found.num_speakers, 192)
    assert found.num_speakers == (1 if seconds > 1 else found.num_speakers)
    assert all(turn.end_ms <= seconds * 1000 for turn in found.turns)


def test_a_silent_local_window_has_nobody(diarizer: Diarizer) -> None:
    found = diarizer.diarize(np.zeros(160_000, np.float32), LOCAL)
    assert (found.turns, found.exclusive, found.embeddings.shape) == ((), (), (0, 192))


def test_a_local_window_is_one_window(diarizer: Diarizer, speech: np.ndarray) -> None:
    with pytest.raises(AudioTooLongError, match="10 s at most"):
        diarizer.diarize(speech[:160_001], LOCAL)


def test_both_speakers_are_found_live_with_few_errors(diarizer: Diarizer, speech: np.ndarray) -> None:
    spans = bench.utterances(speech)
    assert 6_000 <= spans[0][0] <= 7_000
    assert spans[-1][1] >= 29_500
    result = asyncio.run(bench.live(diarizer, speech, spans))
    assert {turn.speaker for turn in result.corrected} == {0, 1}
    for turns, bound in ((result.first, 0.12), (result.corrected, 0.12), (result.relabelled, 0.10)):
        scored = [(turn.start_ms / 1000, turn.end_ms / 1000, turn.speaker) for turn in turns]
        assert score(packaged(), scored, 30.0)["der"] <= bound


def test_a_real_server_names_the_words_of_an_utterance(default_server: Any, speech: np.ndarray) -> None:
    pcm = (speech * 32_767).astype(np.int16)
    words = tuple(
        Word(start=start, end=end, text=text)
        for start, end, text in [(10.8, 12.5, "beep"), (12.6, 14.1, "Jersey"), (14.8, 17.7, "Texas")]
    )
    segment = Segment(start=10.8, end=17.7, text="beep Jersey Texas", words=words)

    async def hear() -> Segment:
        transport = TritonTransport(default_server.url, timeout_s=120, max_concurrency=4)
        speakers = LiveSpeakers(partial(transport.diarize, "diarizer"), SpeakerOptions(wait_s=120))
        try:
            speakers.submit(0, segment, pcm[int(10.8 * 16_000) : int(17.7 * 16_000)])
            return await speakers.final(0)
        finally:
            await speakers.aclose()
            await transport.close()

    named = asyncio.run(hear())
    assert [word.speaker for word in named.words] == ["SPEAKER_00", "SPEAKER_00", "SPEAKER_01"]
    assert named.speaker == "SPEAKER_00"
