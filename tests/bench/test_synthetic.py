from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.bench import synthetic, synthetic_whisper
from orchestrator.engines.base import EngineSource
from orchestrator.engines.fastconformer import artifact
from orchestrator.engines.parakeet import load
from orchestrator.errors import ConfigurationError, ModelLoadError

torch.set_num_threads(1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.integration
def test_it_says_as_much_as_people_do(tmp_path: Path, precision: artifact.Precision) -> None:
    rate = synthetic.write(tmp_path, shape="tiny", precision=precision, tokens_per_second=3.5)
    assert rate == pytest.approx(3.5, rel=0.2)
    assert artifact.describe(tmp_path).precision == precision
    recognizer = load(EngineSource(tmp_path, threads=1))
    found = recognizer.recognize(list(synthetic.speech_like(2, 20.0, seed=7)))
    for recognition in found:
        assert 5 <= len(recognition.words) <= 75
        assert len({word.text for word in recognition.words}) > 5, "not one word over and over"


@pytest.mark.integration
def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        synthetic.write(tmp_path / name, shape="tiny", seed=seed, precision="float32")
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("write", [synthetic.write, synthetic_whisper.write])
def test_a_device_that_is_not_there_is_told_and_nothing_is_written(
    tmp_path: Path, write: Callable[..., object]
) -> None:
    with pytest.raises(ModelLoadError, match="device cuda:63 is not there"):
        write(tmp_path / "weights", shape="tiny", device="cuda:63")
    with pytest.raises(ConfigurationError, match="no torch device 'gpu'"):
        write(tmp_path / "weights", shape="tiny", device="gpu")
    assert not (tmp_path / "weights").exists()


def test_one_in_three_of_the_pieces_opens_a_word_and_none_is_there_twice() -> None:
    pieces = synthetic._pieces(8192)
    assert len(set(pieces)) == 8192
    assert sum(piece.startswith("\u2581") for piece in pieces) / 8192 == pytest.approx(1 / 3, abs=0.01)


def test_mel_filters_have_slaneys_area_and_order() -> None:
    """librosa.filters.mel(sr=16000, n_fft=512, n_mels=128) differs by no more than float32's rounding."""
    filters = synthetic.mel_filters(128, 512)
    assert filters.shape == (128, 257)
    peaks = filters.argmax(1)
    assert (np.diff(peaks) >= 0).all()
    # Wide filters are sampled finely enough for their area, in Hz, to show: 1.
    areas = filters.sum(1) * 8000 / 256
    assert areas[96:] == pytest.approx(1.0, abs=0.03)
