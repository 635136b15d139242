from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from orchestrator import engines
from orchestrator.engines import EngineSource, RecognitionOptions, Recognizer, Samples
from orchestrator.engines.spread import CONFIDENCE
from orchestrator.errors import ModelLoadError, UnsupportedLanguageError

ASSETS = (
    Path(pytest.importorskip("moonshine_voice", reason="the serve extra is not installed").__file__).parent
    / "assets"
)


def read(name: str) -> Samples:
    samples, rate = soundfile.read(ASSETS / f"{name}.wav", dtype="float32")
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    return soxr.resample(mono, rate, 16_000).astype(np.float32)


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recognizer]:
    loaded = engines.load("moonshine", EngineSource(tmp_path_factory.mktemp("empty")))
    yield loaded
    loaded.close()


@pytest.mark.integration
def test_it_hears_what_is_said(recognizer: Recognizer) -> None:
    beckett, nagg = recognizer.recognize([read("beckett"), read("endgame_nagg_nell")])
    assert beckett.text.lower().startswith("ever tried")
    assert beckett.language == "en"
    assert beckett.times_estimated
    text = nagg.text.lower()
    for heard in ("do you hear me?", "that's a good story", "what are you talking about", "from that ditch"):
        assert heard in text
    assert {word.confidence for word in nagg.words} == {CONFIDENCE}
    assert all(a.start_ms <= a.end_ms <= b.start_ms for a, b in pairwise(nagg.words))
    story = next(word for word in nagg.words if word.text.startswith("story"))
    assert 14_400 < story.start_ms < 16_000  # said at 15.3 s


@pytest.mark.integration
def test_it_hears_quiet_speech(recognizer: Recognizer) -> None:
    loud, quiet = recognizer.recognize([read("two_cities")[: 13 * 16_000] * gain for gain in (1.0, 0.08)])
    assert len(loud.words) == 36
    assert abs(len(quiet.words) - 36) <= 2
    assert quiet.text.lower().startswith("it was the best of times")


@pytest.mark.integration
@pytest.mark.parametrize("level", [0.0003, 0.003])
def test_a_room_that_only_stirs_gives_no_words(recognizer: Recognizer, level: float) -> None:
    count = 10 * 16_000
    shape = np.fft.rfft(np.random.default_rng(0).normal(size=count))
    room = np.fft.irfft(shape / np.sqrt(np.maximum(np.arange(shape.size), 20)))
    swell = 1 + 0.4 * np.sin(2 * np.pi * 0.3 * np.arange(count) / 16_000)
    samples = (room / room.std() * swell * level).astype(np.float32)
    assert recognizer.recognize([samples])[0].words == ()


@pytest.mark.integration
def test_a_recording_gives_the_same_words_alone_in_a_batch_and_after_others(recognizer: Recognizer) -> None:
    clips = [read("beckett"), read("endgame_nagg_nell")[:99_999], read("two_cities")[5_000:90_000]]
    alone = [recognizer.recognize([clip])[0] for clip in clips]
    assert recognizer.recognize(clips) == alone
    assert recognizer.recognize(clips[::-1]) == alone[::-1]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda clip: recognizer.recognize([clip])[0], clips)) == alone


@pytest.mark.integration
@pytest.mark.parametrize("count", [0, 1, 319, 512, 1_000, 48_000])
def test_silence_and_very_short_audio_give_no_words(recognizer: Recognizer, count: int) -> None:
    assert recognizer.recognize([np.zeros(count, np.float32)])[0].words == ()


@pytest.mark.integration
@pytest.mark.parametrize("start", range(14_500, 16_000, 250))
def test_any_short_cut_of_speech_is_survived(recognizer: Recognizer, start: int) -> None:
    speech = read("endgame_nagg_nell")[start * 16 :]
    for count in (400, 1_000, 2_000, 5_000):
        recognizer.recognize([speech[:count]])


@pytest.mark.integration
def test_an_empty_batch_and_languages(recognizer: Recognizer) -> None:
    assert recognizer.recognize([]) == []
    assert (
        recognizer.recognize([np.zeros(10, np.float32)], RecognitionOptions(language="en-US"))[0].words == ()
    )
    with pytest.raises(UnsupportedLanguageError, match="English"):
        recognizer.recognize([np.zeros(10, np.float32)], RecognitionOptions(language="de"))


@pytest.mark.integration
def test_it_writes_nothing_on_standard_error(
    recognizer: Recognizer, capfd: pytest.CaptureFixture[str]
) -> None:
    recognizer.recognize([read("beckett"), read("beckett")[1_700:2_300]])
    assert capfd.readouterr().err == ""


def test_an_incomplete_or_corrupt_folder_is_refused(tmp_path: Path) -> None:
    for name in engines.spec("moonshine").artifacts[:2]:
        shutil.copy(ASSETS / "tiny-en" / name, tmp_path / name)
    with pytest.raises(ModelLoadError, match=r"lacks tokenizer\.bin"):
        engines.load("moonshine", EngineSource(tmp_path))
    for name in engines.spec("moonshine").artifacts:
        (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(ModelLoadError, match="cannot load its weights"):
        engines.load("moonshine", EngineSource(tmp_path))
