from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import ArtifactError, MissingDependencyError
from orchestrator.training import voices
from orchestrator.training.voices import Voice, command, is_available, speak, training_voice, trim

needs_espeak = pytest.mark.skipif(
    not is_available(Voice("espeak-ng", "en-us")),
    reason="espeak-ng is not installed (apt-get install espeak-ng)",
)


def test_commands_name_voice_rate_pitch_and_gap(tmp_path: Path):
    out = tmp_path / "a.wav"
    espeak = command(Voice("espeak-ng", "en-us+f2", 140, 30, 50), "hello", out)
    options = ["-v", "en-us+f2", "-s", "140", "-p", "30", "-g", "5", "-w"]
    assert espeak == ["espeak-ng", *options, str(out), "hello"]
    flite = command(Voice("flite", "slt", 80, 120), "hello", out)
    assert "duration_stretch=1.250" in flite
    assert "int_f0_target_mean=120" in flite
    assert "int_f0_target_mean=0" not in command(Voice("flite", "slt", 100, 0), "hello", out)


def test_trim_keeps_speech_and_30_ms():
    audio = np.zeros(16_000, np.float32)
    audio[4000:8000] = 0.5
    assert trim(audio).size == 4000 + 2 * 480
    assert trim(np.zeros(100, np.float32)).size == 0
    assert trim(np.zeros(0, np.float32)).size == 0


def test_missing_program_is_told_with_the_fix(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(voices, "command", lambda *_: ["no-such-synthesiser"])
    with pytest.raises(MissingDependencyError, match="apt-get install"):
        speak("hello", Voice("espeak-ng", "en-us"))


def test_failing_program_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(voices, "command", lambda *_: ["false"])
    with pytest.raises(ArtifactError, match="could not speak"):
        speak("hello", Voice("espeak-ng", "en-us"))


@needs_espeak
def test_speech_is_16_khz_peaked_and_repeatable():
    voice = training_voice(random.Random(1), flite=0.0)
    audio = speak("hello anna", voice)
    assert audio.dtype == np.float32
    assert 0.4 < audio.size / 16_000 < 3.0
    assert np.abs(audio).max() == pytest.approx(0.7, abs=1e-3)
    np.testing.assert_array_equal(audio, speak("hello anna", voice))


@needs_espeak
def test_a_larger_size_is_faster():
    slow, fast = (speak("hello anna", Voice("espeak-ng", "en-us", size=size)) for size in (0.9, 1.1))
    assert slow.size > 1.1 * fast.size
