"""Whisper's engines with real weights of tiny models that say what the test wants, alone and in Triton."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from orchestrator import engines
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines import EngineSource, RecognitionOptions
from orchestrator.engines.base import Samples
from orchestrator.errors import ConfigurationError, ModelLoadError, UnsupportedLanguageError
from tests.engines.whisper.tiny import Tiny

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
TEXT = "it was the best of times"
NAMES = ("whisper_cpp", "whisper_ct2")
OPTIONS = {"beam_size": 2, "batch_size": 2}


@dataclass(frozen=True)
class Weights:
    """One model in each engine's form; ``loop`` says one phrase again and again."""

    sound: dict[str, Path]
    loop: dict[str, Path]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    folder = tmp_path_factory.mktemp("weights")
    result: dict[str, dict[str, Path]] = {}
    for name, tiny in (("sound", Tiny(TEXT, "de")), ("loop", Tiny("thank you " * 30, "en"))):
        cpp = folder / name / "cpp"
        cpp.mkdir(parents=True)
        tiny.write_ggml(cpp / "ggml-model.bin")
        ct2 = tiny.write_ct2(folder / name / "ct2", folder / name / "transformers")
        result[name] = {"whisper_cpp": cpp, "whisper_ct2": ct2}
    return Weights(**result)


@pytest.fixture(scope="module")
def loaded(weights: Weights) -> Iterator[Callable[[str], engines.Recognizer]]:
    """Loads each engine once."""
    there: dict[str, engines.Recognizer] = {}

    def load(name: str) -> engines.Recognizer:
        if name not in there:
            there[name] = engines.load(name, EngineSource(weights.sound[name], threads=1, options=OPTIONS))
        return there[name]

    yield load
    for engine in there.values():
        engine.close()


@pytest.fixture(scope="module")
def speech() -> Samples:
    """9 s of two people, 16 kHz mono, from pyannote.audio's package."""
    found = importlib.util.find_spec("pyannote.audio")
    assert found is not None
    assert found.origin is not None
    path = Path(found.origin).parent / "sample" / "sample.wav"
    samples, rate = soundfile.read(path, dtype="float32", start=6 * SAMPLE_RATE_HZ, stop=15 * SAMPLE_RATE_HZ)
    assert (rate, samples.ndim) == (SAMPLE_RATE_HZ, 1)
    return np.ascontiguousarray(samples)


@pytest.mark.parametrize("name", NAMES)
def test_speech_becomes_words_and_silence_does_not(
    name: str, loaded: Callable[[str], engines.Recognizer], speech: Samples
) -> None:
    engine = loaded(name)
    silence = np.zeros(2 * SAMPLE_RATE_HZ, np.float32)
    together = engine.recognize([speech, silence])
    assert [one.text for one in together] == [TEXT, ""]
    assert (together[0].language, together[1].language_confidence) == ("de", 0.0)
    assert together[0].language_confidence == pytest.approx(1.0, abs=0.01)
    assert together[0].times_estimated == engines.spec(name).times_estimated
    times = [(word.start_ms, word.end_ms) for word in together[0].words]
    assert times == sorted(times)
    assert all(0 <= start <= end <= 9000 for start, end in times)
    assert all(word.confidence > 0.9 for word in together[0].words)
    assert engine.recognize([speech]) == together[:1], "alone as in a batch"


@pytest.mark.parametrize("name", NAMES)
def test_languages_are_those_of_the_weights(
    name: str, loaded: Callable[[str], engines.Recognizer], speech: Samples
) -> None:
    engine = loaded(name)
    assert len(engine.info.languages) == 99
    (given,) = engine.recognize([speech], RecognitionOptions(language="kn-IN"))
    assert (given.text, given.language, given.language_confidence) == (TEXT, "kn", None)
    (guess,) = engine.recognize([speech], RecognitionOptions(detect_only=True))
    assert (guess.words, guess.language) == ((), "de")
    with pytest.raises(UnsupportedLanguageError, match="tlh"):
        engine.recognize([speech], RecognitionOptions(language="tlh"))


@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_in_a_loop_does_not_fill_the_transcript(
    name: str, weights: Weights, speech: Samples
) -> None:
    engine = engines.load(name, EngineSource(weights.loop[name], threads=1, options=OPTIONS))
    (one,) = engine.recognize([speech])
    engine.close()
    said = one.text.split()
    assert said[:2] == ["thank", "you"]
    assert said.count("thank") < 10, one.text


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_loaded_is_told(name: str, weights: Weights, tmp_path: Path) -> None:
    for folder in (weights.sound[name], tmp_path):
        with pytest.raises(ConfigurationError, match="beams"):
            engines.load(name, EngineSource(folder, options={"beams": 5}))
    other = NAMES[1 - NAMES.index(name)]
    with pytest.raises(ModelLoadError) as caught:
        engines.load(name, EngineSource(weights.sound[other]))
    assert caught.value.fix
    with pytest.raises(ModelLoadError, match="CUDA"):
        engines.load(name, EngineSource(weights.sound[name], device="cuda:63"))
    cut = tmp_path / "cut"
    shutil.copytree(weights.sound[name], cut)
    largest = max(cut.iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with pytest.raises(ModelLoadError) as caught:
        engines.load(name, EngineSource(cut))
    assert caught.value.fix


def test_int8_is_not_taken_where_it_does_not_work() -> None:
    from orchestrator.engines.whisper_ct2 import compute_type_of

    assert compute_type_of("auto", "cuda", (12, 1)) == "float16"
    assert compute_type_of("int8", "cuda", (12, 1)) == "float16"
    assert compute_type_of("int8_float16", "cuda", (12, 0)) == "float16"
    assert compute_type_of("int8_float16", "cuda", (9, 0)) == "int8_float16"
    assert compute_type_of("bfloat16", "cuda", (12, 1)) == "bfloat16"
    assert compute_type_of("auto", "cpu", None) == "float32"
    assert compute_type_of("int8", "cpu", None) == "int8"


def test_a_release_is_built_and_served(
    weights: Weights, speech: Samples, tmp_path: Path, make_home: Callable[[Path], Path], tritonserver: Any
) -> None:
    from orchestrator.client import SpeechClient
    from orchestrator.repository.release import ReleaseStore
    from orchestrator.runtime.server import TritonServer
    from tests.conftest import free_server_settings

    home = make_home(tmp_path / "home")
    recording = tmp_path / "talk.wav"
    soundfile.write(recording, speech, SAMPLE_RATE_HZ)

    def build(source: Path) -> subprocess.CompletedProcess[str]:
        settings = tmp_path / "spark-speech.toml"
        settings.write_text(
            f'[paths]\nhome = "{home}"\n[whisper]\nbeam_size = 1\n'
            f'[build.models]\nmoonshine = ""\ndiarizer = ""\nwhisper_ct2 = "{source}"\n'
        )
        command = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
        command += ["--config", str(settings), "build", "--device", "cpu", "--no-load-check", "--json"]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    refused = build(weights.sound["whisper_cpp"])
    assert refused.returncode == 1
    assert "whisper.cpp" in refused.stderr
    built = build(weights.sound["whisper_ct2"])
    assert built.returncode == 0, built.stderr
    release = ReleaseStore(home).find("current")
    (model,) = release.manifest.models
    assert model.settings["detects_language"] == "true"
    assert json.loads(str(model.settings["engine_options"]))["beam_size"] == 1
    assert "yue" not in str(model.settings["languages"]).split(",")
    with (
        TritonServer(
            release.model_repository,
            release.models,
            triton=tritonserver,
            home=home,
            settings=free_server_settings(),
            release=release.id,
        ) as server,
        SpeechClient(server.url) as client,
    ):
        transcript = client.transcribe(recording, engine="whisper", diarize=False)
    assert transcript.text == TEXT
    assert transcript.language == "de"
    assert transcript.routing is not None
    assert transcript.routing.engine == "whisper_ct2"
