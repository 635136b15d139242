"""This project's Whisper against transformers': features, attention, and the tokens that are found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.utils import logging as chatter

from orchestrator.engines.whisper.ct2_folder import files_in
from orchestrator.engines.whisper_native import export, tensorrt
from orchestrator.engines.whisper_native.compiled import TorchRuntime
from orchestrator.engines.whisper_native.decoding import Rules, beams, likeliest, read_prompt
from orchestrator.engines.whisper_native.features import Features
from orchestrator.engines.whisper_native.graphs import GraphRuntime
from orchestrator.engines.whisper_native.onnx_runtime import OnnxGraph
from orchestrator.engines.whisper_native.runtime import Runtime, rows_of
from orchestrator.engines.whisper_native.tokens import WhisperTokens, tokens_in
from orchestrator.engines.whisper_native.weights import network_in
from orchestrator.errors import InferenceError, ModelLoadError
from tests.integration.whisper import fake_tensorrt
from tests.integration.whisper.checkpoints import SHAPE, random_checkpoint

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
CPU = torch.device("cpu")
ROWS = 3


@dataclass
class Both:
    """One checkpoint, theirs and ours."""

    theirs: Any
    tokens: WhisperTokens
    runtimes: dict[str, Runtime]
    features: torch.Tensor

    def expected(self, width: int, most: int) -> list[list[int]]:
        with torch.inference_mode():
            found = self.theirs.generate(
                self.features,
                language="fr",
                task="transcribe",
                num_beams=width,
                max_new_tokens=most,
                return_dict_in_generate=True,  # else a last token can be taken for padding
            )
        rows = found["sequences"].tolist()
        prompt = self.tokens.prompt("fr")
        assert all(tuple(row[: len(prompt)]) == prompt for row in rows)
        return [[token for token in row[len(prompt) :] if token != self.tokens.end] for row in rows]

    def found(self, runtime: Runtime, width: int, most: int) -> list[list[int]]:
        rows = torch.arange(ROWS).repeat_interleave(width)
        steps = runtime.begin(rows_of(runtime.encode(self.features), rows))
        prompt = torch.tensor(self.tokens.prompt("fr")).expand(ROWS * width, -1)
        rules = Rules(self.tokens.end, self.tokens.suppressed, self.tokens.suppressed_first, most)
        logits = read_prompt(steps, prompt)[1]
        found = likeliest(steps, logits, rules) if width == 1 else beams(steps, logits, rules, width)
        return [list(one.tokens) for one in found]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    chatter.set_verbosity_error()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=[1, 2])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    seed = int(request.param)
    folder = random_checkpoint(tmp_path_factory.mktemp("whisper"), seed, talkative=seed == 1)
    files = files_in(folder)
    tokens = tokens_in(files, SHAPE.vocabulary, "x")
    network = network_in(files, SHAPE, CPU, torch.float32, "x")
    graphs = export.export(network, tokens.alignment_heads, folder / "onnx")
    plans = {
        name: tensorrt.build(fake_tensorrt, path, export.limits(SHAPE, 16)[name])
        for name, path in graphs.items()
    }
    runtimes: dict[str, Runtime] = {
        "torch": TorchRuntime(network, CPU, heads=tokens.alignment_heads),
        "onnx": GraphRuntime(
            SHAPE, {name: OnnxGraph(path, 1) for name, path in graphs.items()}, CPU, torch.float32
        ),
        "tensorrt": GraphRuntime(
            SHAPE,
            {name: tensorrt.TensorRtGraph(fake_tensorrt, name, plan, CPU) for name, plan in plans.items()},
            CPU,
            torch.float32,
        ),
    }
    theirs = WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    features = torch.randn((ROWS, SHAPE.mels, SHAPE.frames), generator=torch.Generator().manual_seed(seed))
    return Both(theirs, tokens, runtimes, features)


@pytest.mark.parametrize(("width", "most"), [(1, 60), (1, 3), (2, 60), (5, 25)])
def test_tokens_are_those_that_generate_finds(both: Both, width: int, most: int) -> None:
    expected = both.expected(width, most)
    assert all(expected)
    for name, runtime in both.runtimes.items():
        if name != "tensorrt" or most < 60:  # the stand-in computes each step twice over
            assert both.found(runtime, width, most) == expected, name


def test_some_windows_end_by_themselves(tmp_path: Path) -> None:
    """Else the tests above would say nothing about the end token."""
    folder = random_checkpoint(tmp_path, 2, talkative=False)
    files = files_in(folder)
    network = network_in(files, SHAPE, CPU, torch.float32, "x")
    tokens = tokens_in(files, SHAPE.vocabulary, "x")
    features = torch.randn((ROWS, SHAPE.mels, SHAPE.frames), generator=torch.Generator().manual_seed(2))
    one = Both(None, tokens, {}, features)
    lengths = {len(row) for row in one.found(TorchRuntime(network, CPU, heads=()), 1, 60)}
    assert min(lengths) < 60


def test_attention_is_theirs(both: Both) -> None:
    text = [*both.tokens.prompt("fr"), 10, 11, 12, both.tokens.end]
    tokens = torch.tensor([text] * ROWS)
    with torch.inference_mode():
        out = both.theirs(both.features, decoder_input_ids=tokens, output_attentions=True)
    expected = torch.stack(
        [out.cross_attentions[layer][:, head] for layer, head in both.tokens.alignment_heads]
    )
    for name, runtime in both.runtimes.items():
        found = runtime.attention(tokens, runtime.encode(both.features))
        assert torch.allclose(found, expected.transpose(0, 1), atol=1e-5), name


def test_a_decoder_takes_no_more_tokens_than_it_has_positions(both: Both) -> None:
    for runtime in both.runtimes.values():
        steps = runtime.begin(runtime.encode(both.features[:1]))
        for _ in range(SHAPE.decoder_positions):
            steps(torch.tensor([5]))
        with pytest.raises(InferenceError, match="64 tokens"):
            steps(torch.tensor([5]))


@pytest.mark.parametrize("mels", [80, 128])
def test_features_are_theirs(mels: int) -> None:
    source = np.random.default_rng(3)
    sounds = [source.normal(0, 0.1, size).astype(np.float32) for size in (16_000, 70_001)]
    sounds.append(np.zeros(100, np.float32))
    theirs = WhisperFeatureExtractor(feature_size=mels)(sounds, sampling_rate=16_000, return_tensors="pt")
    ours = Features(mels, 3000, CPU)(sounds)
    assert torch.allclose(ours, theirs["input_features"], atol=1e-4)


def test_what_tensorrt_refuses_is_told(both: Both, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelLoadError, match=r"cannot read broken\.onnx"):
        tensorrt.build(fake_tensorrt, tmp_path / "broken.onnx", {})
    with pytest.raises(ModelLoadError, match="does not take the plan of step"):
        tensorrt.TensorRtGraph(fake_tensorrt, "step", b"another plan", CPU)
    runtime = both.runtimes["tensorrt"]
    with pytest.raises(InferenceError, match="outside of the plan's range"):
        runtime.encode(both.features.repeat(6, 1, 1))
