"""Parakeet on a GPU says what it says on a CPU: with graphs and without, short of memory, all at once."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import orchestrator.training
from orchestrator.engines.base import EngineSource, Recognition, Samples
from orchestrator.engines.fastconformer import graphs
from orchestrator.engines.fastconformer.compute import Compute
from orchestrator.engines.fastconformer.config import EncoderConfig, FeatureConfig, HeadConfig, ModelConfig
from orchestrator.engines.fastconformer.heads import CtcHead
from orchestrator.engines.fastconformer.network import FastConformer
from orchestrator.engines.parakeet import ParakeetRecognizer, load

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
_FILES = Path(orchestrator.training.__file__).parent / "checkpoint"
CONFIDENCE_TOLERANCE = 2e-3
"""Between float32 on a CPU and on a GPU, whose sums run in another order."""


BFLOAT16_TOLERANCE = 0.2
"""Of a word's confidence in bfloat16, whose numbers have eight bits: 0.10 was seen."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint in this package, as an engine's folder."""
    target = tmp_path_factory.mktemp("parakeet")
    (checkpoint,) = _FILES.glob("*.nemo")
    (target / "model.nemo").symlink_to(checkpoint)
    return target


@pytest.fixture(scope="module")
def clips() -> list[Samples]:
    """Pieces of a dialogue, of different lengths."""
    samples, rate = soundfile.read(_FILES / "dialogue.flac", dtype="float32")
    assert rate == 16_000
    return [
        samples[begin : begin + length] for begin in range(0, 160_000, 40_000) for length in (70_000, 110_000)
    ]


@pytest.fixture(scope="module")
def expected(folder: Path, clips: list[Samples]) -> list[Recognition]:
    """What the CPU hears."""
    found = load(EngineSource(folder)).recognize(clips)
    assert sum(len(recognition.words) for recognition in found) > 40
    return found


def _engine(folder: Path, **options: object) -> ParakeetRecognizer:
    return load(EngineSource(folder, "cuda", options={"runtime": "native", **options}))


def _assert_same(found: list[Recognition], expected: list[Recognition]) -> None:
    for one, other in zip(found, expected, strict=True):
        times = [(word.text, word.start_ms, word.end_ms) for word in one.words]
        assert times == [(word.text, word.start_ms, word.end_ms) for word in other.words]
        sure = [word.confidence for word in one.words]
        assert sure == pytest.approx([word.confidence for word in other.words], abs=CONFIDENCE_TOLERANCE)


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_float32_words_times_and_confidences_equal_the_cpus(
    folder: Path, clips: list[Samples], expected: list[Recognition], cuda_graphs: bool
) -> None:
    engine = _engine(folder, precision="float32", cuda_graphs=cuda_graphs)
    _assert_same(engine.recognize(clips), expected)
    _assert_same([engine.recognize([clip])[0] for clip in clips], expected)


def test_bfloat16_hears_the_same_words(
    folder: Path, clips: list[Samples], expected: list[Recognition]
) -> None:
    found = _engine(folder, precision="bfloat16").recognize(clips)
    assert [one.text for one in found] == [other.text for other in expected]
    for one, other in zip(found, expected, strict=True):
        for word, same in zip(one.words, other.words, strict=True):
            assert abs(word.start_ms - same.start_ms) <= 80
            assert word.confidence == pytest.approx(same.confidence, abs=BFLOAT16_TOLERANCE)


def test_words_and_starts_are_nemos_own(folder: Path, clips: list[Samples]) -> None:
    models = pytest.importorskip("nemo.collections.asr.models", reason="NeMo is not installed")
    theirs = models.ASRModel.restore_from(str(folder / "model.nemo"), map_location="cuda").eval()
    hypotheses = theirs.transcribe(
        clips, batch_size=len(clips), timestamps=True, verbose=False, num_workers=0
    )
    found = _engine(folder, precision="float32").recognize(clips)
    assert [one.text for one in found] == [hypothesis.text for hypothesis in hypotheses]
    for one, hypothesis in zip(found, hypotheses, strict=True):
        starts = [80 * word["start_offset"] for word in hypothesis.timestamp["word"]]
        assert [word.start_ms for word in one.words] == starts


@pytest.mark.parametrize("head", ["tdt", "rnnt", "ctc"])
def test_random_networks_of_every_head_agree_with_the_cpu(head: str) -> None:
    torch.manual_seed(1)
    config = ModelConfig(
        FeatureConfig(40, 512, 400, 160, 0.97, 2**-24),
        EncoderConfig(3, 96, 4, 192, 9, 8, 32, bias=True, scale_input=True),
        HeadConfig("ctc", 60)
        if head == "ctc"
        else HeadConfig(
            head,  # type: ignore[arg-type]
            60,
            (0, 1, 2, 3, 4) if head == "tdt" else (),
            prediction_width=48,
            prediction_layers=2,
            joint_width=40,
        ),
    )
    network = FastConformer(config).eval().requires_grad_(False)
    network.features.window.copy_(torch.hann_window(400, periodic=False))
    network.features.filters.copy_(torch.rand(40, 257) * 0.1)
    network.head.out.weight.mul_(8)
    audio = torch.randn(5, 48_000) * 0.1
    lengths = torch.tensor([48_000, 31_000, 0, 200, 40_001])
    cpu = Compute(network, torch.device("cpu"))
    encoded, frames = cpu.encode(audio, lengths)
    expected = network.head.labels(encoded)[0] if head == "ctc" else cpu.decode(encoded, frames)[0]
    network.cuda()
    for cuda_graphs in (False, True):
        gpu = Compute(network, torch.device("cuda"), cuda_graphs=cuda_graphs)
        found, found_frames = gpu.encode(audio, lengths)
        assert found_frames.tolist() == frames.tolist()
        for row, count in enumerate(frames.tolist()):
            torch.testing.assert_close(found[row, :count].cpu(), encoded[row, :count], atol=2e-4, rtol=1e-3)
        if isinstance(network.head, CtcHead):
            labels = network.head.labels(found)[0].cpu()
            for row, count in enumerate(frames.tolist()):
                assert labels[row, :count].tolist() == expected[row, :count].tolist()
            continue
        tokens, _ = gpu.decode(found, found_frames)
        assert tokens.count.tolist() == expected.count.tolist()
        kept = torch.arange(expected.table.shape[1]) < expected.count[:, None]
        width = expected.table.shape[1]
        assert torch.equal(tokens.table[:, :width, :3].cpu()[kept], expected.table[..., :3][kept])


def test_a_graph_that_fails_costs_a_warning_and_no_words(
    folder: Path,
    clips: list[Samples],
    expected: list[Recognition],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_args: object) -> torch.cuda.CUDAGraph:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "captured", refuse)
    with caplog.at_level(logging.WARNING):
        engine = _engine(folder, precision="float32")
        _assert_same(engine.recognize(clips), expected)
    assert [record.message for record in caplog.records if "CUDA graphs failed" in record.message] != []


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A process that may take one gibibyte more of the device's memory."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**30) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_batch_too_large_for_the_memory_is_split(
    folder: Path, clips: list[Samples], little_memory: None, caplog: pytest.LogCaptureFixture
) -> None:
    engine = _engine(folder, precision="float32")
    whole = [np.concatenate([clip] * 4) for clip in clips] * 16
    alone = engine.recognize(whole[: len(clips)])
    with caplog.at_level(logging.WARNING):
        found = engine.recognize(whole)
    assert any("out of memory" in record.message for record in caplog.records)
    assert [one.text for one in found] == [one.text for one in alone] * 16


def test_calls_from_many_threads_do_not_mix(
    folder: Path, clips: list[Samples], expected: list[Recognition]
) -> None:
    engine = _engine(folder, precision="float32")
    order = [index % len(clips) for index in range(64)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: engine.recognize([clips[index]])[0], order))
    _assert_same(found, [expected[index] for index in order])
