"""The shipped checkpoint, restored and run by NeMo itself."""

from __future__ import annotations

import itertools
import json
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from orchestrator.errors import ModelLoadError
from orchestrator.training.augment import colored_noise, join
from orchestrator.training.corpus import Split, sentences
from orchestrator.training.evaluate import restore, score, transcribe, word_errors
from orchestrator.training.voices import ORDINARY_RATES, Voice, is_available, speak, training_voice

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

FOLDER = Path(__file__).parents[2] / "orchestrator" / "training" / "checkpoint"
CHECKPOINT = FOLDER / "parakeet-tiny.nemo"
EDGE_S = 0.25
"""How far a word's time may lie outside its turn: three encoder frames of 80 ms."""


@pytest.fixture(scope="module")
def model():
    return restore(CHECKPOINT)


def test_it_is_small_and_holds_no_path_of_the_training_machine():
    assert CHECKPOINT.stat().st_size <= 10_000_000
    with tarfile.open(CHECKPOINT) as archive:
        members = archive.getmembers()
        config = next(member for member in members if member.name.endswith("model_config.yaml"))
        stream = archive.extractfile(config)
        assert stream is not None
        text = stream.read().decode()
    assert ": /" not in text
    assert not [member.name for member in members if "optim" in member.name]


def test_it_has_the_shape_of_parakeet_tdt(model):
    assert type(model).__name__ == "EncDecRNNTBPEModel"
    assert model.cfg.encoder.subsampling_factor == 8
    assert list(model.cfg.decoding.durations) == [0, 1, 2, 3, 4]
    assert model.cfg.preprocessor.features == 80
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.skipif(
    not is_available(Voice("espeak-ng", "en-us")),
    reason="espeak-ng is not installed (apt-get install espeak-ng)",
)
def test_word_error_rate_on_held_out_word_pairs_is_at_most_5_percent(model):
    rng = random.Random(2024)
    texts = list(itertools.islice(sentences(Split.TEST, 2024, min_words=2), 60))
    voices = [training_voice(rng, flite=0.0, rates=ORDINARY_RATES) for _ in texts]
    audio = [join([speak(text, voice)], (0.2, 0.2)) for text, voice in zip(texts, voices, strict=True)]
    result = score("held-out word pairs", texts, transcribe(model, audio))
    assert result.words > 250
    assert result.wer <= 0.05


def test_dialogue_is_recognised_and_its_words_lie_in_their_turns(model):
    record = json.loads((FOLDER / "dialogue.json").read_text())
    audio, rate = soundfile.read(FOLDER / record["audio"], dtype="float32")
    assert rate == 16_000
    assert audio.size / rate == pytest.approx(record["duration_s"], abs=1e-3)
    hypothesis = model.transcribe([audio], timestamps=True, verbose=False)[0]
    assert word_errors(record["text"].split(), hypothesis.text.split()) == 0
    words = iter(hypothesis.timestamp["word"])
    for turn in record["turns"]:
        for text in turn["text"].split():
            word = next(words)
            assert word["word"] == text
            assert turn["start_s"] - EDGE_S <= word["start"] <= word["end"] <= turn["end_s"] + EDGE_S


def test_rttm_and_turns_of_the_dialogue_agree():
    record = json.loads((FOLDER / "dialogue.json").read_text())
    assert " ".join(turn["text"] for turn in record["turns"]) == record["text"]
    for line, turn in zip(record["rttm"], record["turns"], strict=True):
        kind, _, channel, start, length, *_, speaker, _, _ = line.split()
        assert (kind, channel, speaker) == ("SPEAKER", "1", turn["speaker"])
        assert float(start) == pytest.approx(turn["start_s"], abs=2e-3)
        assert float(start) + float(length) == pytest.approx(turn["end_s"], abs=2e-3)


def test_noise_and_silence_give_no_words(model):
    noise = 0.02 * colored_noise(np.random.default_rng(0), 80_000, 1.0)
    assert transcribe(model, [np.zeros(80_000, np.float32), noise.astype(np.float32)]) == ["", ""]


def test_a_file_that_is_no_checkpoint_is_told(tmp_path: Path):
    broken = tmp_path / "broken.nemo"
    broken.write_bytes(b"not an archive")
    with pytest.raises(ModelLoadError, match="cannot restore"):
        restore(broken)
