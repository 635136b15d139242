from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.engines import vad
from orchestrator.engines.vad import FRAME, Hysteresis, VoiceActivity
from orchestrator.errors import InferenceError, MissingDependencyError, ModelLoadError

CHECKOUT = Path(__file__).resolve().parents[2]
DIALOGUE = CHECKOUT / "orchestrator" / "training" / "checkpoint" / "dialogue.flac"
SPEECH = CHECKOUT.parent / "shared" / "speech"
CPU = torch.device("cpu")
RATE = 16_000

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dialogue() -> np.ndarray:
    samples, rate = soundfile.read(DIALOGUE, dtype="float32")
    assert rate == RATE
    return samples


@pytest.fixture(scope="module")
def detector() -> VoiceActivity:
    return VoiceActivity(8, CPU)


def noise(seconds: float, level: float) -> np.ndarray:
    return np.random.default_rng(7).normal(0, level, int(seconds * RATE)).astype(np.float32)


def heard(detector: VoiceActivity, samples: np.ndarray) -> np.ndarray:
    detector.reset(0)
    return detector.push([0], [samples])[0]


def test_windows_are_as_probable_as_for_the_program_in_the_wheel(detector, dialogue):
    samples = dialogue[: 8 * RATE]
    program = torch.jit.load(str(vad._packaged()))
    with torch.inference_mode():
        windows = [
            program(torch.from_numpy(samples[None, begin : begin + 512]), RATE).item()
            for begin in range(0, len(samples) - 511, 512)
        ]
    expected = [
        max(
            value
            for number, value in enumerate(windows)
            if FRAME * frame < 512 * (number + 1) <= FRAME * (frame + 1)
        )
        for frame in range(len(samples) // FRAME)
    ]
    np.testing.assert_allclose(heard(detector, samples), expected, atol=1e-4)


def test_speech_silence_and_noise_are_told_apart(detector, dialogue):
    # Its first 0.5 s are a pause, then a line is spoken until 2.7 s.
    speech = heard(detector, dialogue[: 8 * RATE])
    assert speech[:6].max() < 0.1
    assert speech[8:32].min() > 0.9
    assert heard(detector, np.zeros(4 * RATE, np.float32)).max() < 0.1
    for level in (0.001, 0.05, 0.3):
        assert heard(detector, noise(4, level)).max() < 0.3
    assert heard(detector, dialogue[: 8 * RATE] + noise(8, 0.005))[8:32].min() > 0.7


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_batch_is_each_alone_however_cut(detector, dialogue, data):
    count = data.draw(st.integers(2, 8))
    numbers = data.draw(st.permutations(range(8)))[:count]
    lengths = data.draw(st.lists(st.integers(0, 4 * FRAME), min_size=count, max_size=count))
    starts = data.draw(st.lists(st.integers(0, len(dialogue) - 4 * FRAME), min_size=count, max_size=count))
    parts = [dialogue[begin : begin + length] for begin, length in zip(starts, lengths, strict=True)]
    alone = [heard(detector, part) for part in parts]
    for number in numbers:
        detector.reset(number)
    found: list[list[float]] = [[] for _ in parts]
    done = [0] * count
    while any(at < part.size for at, part in zip(done, parts, strict=True)):
        turn = data.draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True))
        sizes = [data.draw(st.integers(0, 3000)) for _ in turn]
        pieces = [parts[row][done[row] : done[row] + size] for row, size in zip(turn, sizes, strict=True)]
        for row, piece, frames in zip(
            turn, pieces, detector.push([numbers[row] for row in turn], pieces), strict=True
        ):
            done[row] += piece.size
            found[row] += frames.tolist()
            # As soon as a frame's last sample is there.
            assert len(found[row]) == done[row] // FRAME
    for one, many in zip(alone, found, strict=True):
        np.testing.assert_allclose(many, one, atol=1e-5)


def test_a_reset_stream_is_a_new_one(detector, dialogue):
    part = dialogue[RATE : RATE + 4 * FRAME]
    new = VoiceActivity(1, CPU).push([0], [part])[0]
    detector.push([2, 3], [dialogue[: 5000 + RATE], dialogue[: 5000 + RATE]])
    detector.reset(2)
    again, other = detector.push([2, 3], [part, part])
    np.testing.assert_allclose(again, new, atol=1e-5)
    assert other.shape != new.shape or np.abs(other - new).max() > 1e-3


def test_many_windows_take_several_passes(detector, dialogue, monkeypatch):
    once = heard(detector, dialogue[: 2 * RATE])
    monkeypatch.setattr(vad, "_PASS", 7)
    np.testing.assert_allclose(heard(detector, dialogue[: 2 * RATE]), once, atol=1e-5)


def test_a_failed_pass_leaves_the_streams_as_they_were(detector, dialogue, monkeypatch):
    detector.reset(0)
    before = detector.push([0], [dialogue[: RATE + 100]])[0]
    with monkeypatch.context() as patched:
        patched.setattr(detector, "_encode", _out_of_memory)
        with pytest.raises(InferenceError, match="out of memory"):
            detector.push([0], [dialogue[RATE + 100 : 2 * RATE]])
    after = detector.push([0], [dialogue[RATE + 100 : 2 * RATE]])[0]
    whole = heard(detector, dialogue[: 2 * RATE])
    np.testing.assert_allclose(np.concatenate((before, after)), whole, atol=1e-5)


def _out_of_memory(windows: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("out of memory")


def test_a_stream_may_appear_once(detector):
    silence = np.zeros(FRAME, np.float32)
    with pytest.raises(ValueError, match="once"):
        detector.push([1, 1], [silence, silence])
    with pytest.raises(ValueError, match="once"):
        detector.push([1, 2], [silence])


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(vad, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"spark-speech\[serve\]"):
        VoiceActivity(1, CPU)


def test_damaged_and_foreign_weights_are_refused(tmp_path):
    damaged, foreign = tmp_path / "damaged.jit", tmp_path / "foreign.jit"
    damaged.write_bytes(vad._packaged().read_bytes()[:100_000])
    torch.jit.script(torch.nn.Linear(2, 2)).save(foreign)
    for path in (damaged, tmp_path / "missing.jit"):
        with pytest.raises(ModelLoadError, match="cannot be read"):
            VoiceActivity(1, CPU, weights=path)
    with pytest.raises(ModelLoadError, match="version 6"):
        VoiceActivity(1, CPU, weights=foreign)


def test_speech_begins_at_the_onset_and_lasts_down_to_the_offset():
    values = np.array([0.4, 0.5, 0.4, 0.35, 0.34, 0.4, 0.9], np.float32)
    # In float32 0.35 is a little below: a threshold that a frame meets exactly may go either way.
    assert Hysteresis(0.5, 0.349).push(values).tolist() == [False, True, True, True, False, False, True]


@given(st.lists(st.floats(0, 1, width=32), max_size=30), st.integers(0, 30))
def test_hysteresis_carries_over_from_push_to_push(values, cut):
    array = np.array(values, np.float32)
    whole, parts = Hysteresis(0.5, 0.35), Hysteresis(0.5, 0.35)
    joined = [*parts.push(array[:cut]), *parts.push(array[cut:])]
    assert joined == whole.push(array).tolist()
    assert parts.speech is whole.speech


@pytest.mark.skipif(not SPEECH.is_dir(), reason="needs recordings that are no part of the repository")
def test_meetings_agree_with_their_reference(detector):
    right = total = 0
    for path in sorted((SPEECH / "pyannote-audio").glob("*.wav")):
        samples, rate = soundfile.read(path, dtype="float32")
        if rate != RATE or samples.ndim != 1:
            continue
        speech = Hysteresis(0.5, 0.35).push(heard(detector, samples))
        expected = np.zeros(len(speech), bool)
        for line in path.with_suffix(".rttm").read_text().splitlines():
            begin, length = (float(field) for field in line.split()[3:5])
            expected[math.floor(begin * RATE / FRAME) : math.ceil((begin + length) * RATE / FRAME)] = True
        right += int((speech == expected).sum())
        total += len(speech)
    assert total > 1000
    assert right / total > 0.85
