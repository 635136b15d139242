"""Whisper's checkpoints from `build` to a transcript: a release, a real server, a client."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from orchestrator.audio import decode
from orchestrator.bench import synthetic_whisper
from orchestrator.client import SpeechClient
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines import EngineSource, RecognitionOptions, load
from orchestrator.errors import ArtifactError, ReleaseInvalidError
from orchestrator.progress import SilentProgress
from orchestrator.repository.loadcheck import server_load_check
from orchestrator.repository.release import ReleaseStore
from orchestrator.runtime.demo import synthetic_dialogue
from orchestrator.settings_engines import WhisperSettings
from tests.conftest import free_server_settings, server_of
from tests.engines.whisper.tiny import Tiny
from tests.integration.whisper.serving import MakeHome, build

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
SETTINGS = WhisperSettings(beam_size=2, batch_size=2, threads=1)
OPTIONS = {"beam_size": 2, "batch_size": 2}
TOLERANCE_S = 0.1
"""Between two processes: where a random network looks is now and then nearly a draw."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights: nonsense, but the same at every call."""
    folder = tmp_path_factory.mktemp("checkpoint")
    synthetic_whisper.write(folder, shape="toy", precision="float32", seed=2)
    return folder


def test_a_served_checkpoint_says_what_the_engine_says(
    checkpoint: Path, tmp_path: Path, make_home: MakeHome, tritonserver: Any
) -> None:
    recording = tmp_path / "talk.wav"
    said = decode(synthetic_dialogue()).samples[0][: 8 * SAMPLE_RATE_HZ]
    soundfile.write(recording, said, SAMPLE_RATE_HZ, subtype="PCM_16")
    samples = decode(recording).samples[0]
    home = make_home(tmp_path / "home")
    release = build(home, "whisper_torch", checkpoint, SETTINGS)
    with server_of(release, home, tritonserver) as server, SpeechClient(server.url) as client:
        found = client.transcribe(recording, engine="whisper_torch", diarize=False)
        given = client.transcribe(recording, engine="whisper_torch", diarize=False, language="fr-CA")
    before = torch.get_num_threads()
    engine = load("whisper_torch", EngineSource(checkpoint, threads=1, options=OPTIONS))
    try:
        (heard,) = engine.recognize([samples])
        (told,) = engine.recognize([samples], RecognitionOptions(language="fr"))
    finally:
        engine.close()
        torch.set_num_threads(before)
    assert len(heard.words) > 3
    for served, expected in ((found, heard), (given, told)):
        assert served.language == expected.language
        assert [word.text for word in served.words] == [word.text for word in expected.words]
        assert not served.times_estimated
        times = [(word.start, word.end) for word in served.words]
        assert times == sorted(times)
        assert all(0 <= start <= end <= 8 for start, end in times)
        for word, own in zip(served.words, expected.words, strict=True):
            assert word.start == pytest.approx(own.start_ms / 1000, abs=TOLERANCE_S)
            assert word.confidence == pytest.approx(own.confidence, abs=0.01)
    assert heard.language_confidence is not None
    assert heard.language not in ("en", "fr"), "else nothing was found out"
    assert told.language == "fr"
    assert found.text != given.text, "a language that is given counts"


def test_what_is_no_checkpoint_is_refused_at_build(tmp_path: Path, make_home: MakeHome) -> None:
    home = make_home(tmp_path / "home")
    converted = Tiny("hello").write_ct2(tmp_path / "ct2", tmp_path / "transformers")
    plans = tmp_path / "built"
    (plans / "plans" / "trt10-sm_90").mkdir(parents=True)
    (plans / "plans" / "trt10-sm_90" / "encoder.plan").write_bytes(b"ftrt")
    for model in ("whisper_torch", "whisper_trt"):
        for folder, said in ((converted, "CTranslate2"), (plans, "TensorRT plans")):
            with pytest.raises(ArtifactError, match=rf"cannot be served by {model}.*{said}") as caught:
                build(home, model, folder, SETTINGS)
            assert "as transformers saves" in str(caught.value.fix)
    with pytest.raises(ArtifactError, match="not CTranslate2's"):
        build(home, "whisper_ct2", tmp_path / "transformers", SETTINGS)
    assert not ReleaseStore(home).ids()


@pytest.mark.usefixtures("tritonserver")
@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed, so it is not missed"
)
def test_tensorrt_is_missed_before_a_release_is_published(
    checkpoint: Path, tmp_path: Path, make_home: MakeHome
) -> None:
    home = make_home(tmp_path / "home")
    check = server_load_check(home, free_server_settings(), SilentProgress())
    assert check is not None
    with pytest.raises(ReleaseInvalidError, match=r"needs tensorrt on the target.*tensorrt-cu13"):
        build(home, "whisper_trt", checkpoint, SETTINGS, load=check)
    assert not ReleaseStore(home).ids()
