"""Forced alignment with real libraries: the path, the three kinds of weights, and a served aligner."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import resources
from orchestrator.bench import word_times_command
from orchestrator.bench.festival import VOICES
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines import EngineSource, load_aligner
from orchestrator.engines.alignment.base import AlignmentOptions
from orchestrator.engines.alignment.trellis import ANYTHING, spans
from orchestrator.errors import (
    ConfigurationError,
    InvalidRequestError,
    ModelLoadError,
    UnsupportedLanguageError,
)
from orchestrator.progress import SilentProgress
from tests.integration.talk import DIALOGUE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

VOCABULARY = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4} | {
    letter: number for number, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ'", start=5)
}
_EDGE_MS = 150
_OUTSIDE_MS = 250
"""Half the pause between two turns."""
WORDS = ("hello", "42", "caf\u00e9", "David's", "-", "train")


def table(labels: list[int], sure: float = 0.9, size: int = 6) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Log probabilities of a model that hears ``labels``, one a frame."""
    rows = np.full((len(labels), size), (1 - sure) / (size - 1), dtype=np.float32)
    rows[np.arange(len(labels)), labels] = sure
    return np.log(rows)


def test_tokens_are_found_where_the_model_hears_them() -> None:
    found = spans(table([0, 0, 1, 1, 0, 2, 0, 2, 2, 2, 0]), [1, 2, 2], blank=0)
    assert found is not None
    assert [(span.start, span.end) for span in found] == [(2, 4), (5, 6), (7, 10)]
    assert all(span.probability == pytest.approx(0.9) for span in found)


def test_what_cannot_be_spelt_takes_the_sound_between_its_neighbours() -> None:
    found = spans(table([1, 0, 3, 3, 4, 3, 0, 2]), [1, ANYTHING, 2], blank=0)
    assert found is not None
    assert [(span.start, span.end) for span in found] == [(0, 1), (2, 6), (7, 8)]


def test_more_tokens_than_frames_are_not_found() -> None:
    assert spans(table([0, 1, 2]), [1, 2, 3, 4], blank=0) is None
    assert spans(table([0, 1, 1]), [1, 1, 1], blank=0) is None
    assert spans(table([0, 1]), [], blank=0) is None


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_every_token_gets_frames_of_its_own_in_order(data: st.DataObject) -> None:
    tokens = data.draw(st.lists(st.sampled_from([1, 2, 3, ANYTHING]), min_size=1, max_size=6))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    frames = data.draw(st.integers(2 * len(tokens), 40))
    scores = rng.normal(0, 3, (frames, 6)).astype(np.float32)
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    found = spans(scores, tokens, blank=0)
    assert found is not None
    assert len(found) == len(tokens)
    assert all(0 <= span.start < span.end <= frames and 0 <= span.probability <= 1 for span in found)
    assert all(left.end <= right.start for left, right in pairwise(found))


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it, with random weights."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    folder = tmp_path_factory.mktemp("wav2vec2")
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    return folder


@pytest.fixture(scope="module")
def fastconformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lean form of a CTC model, with random weights."""
    import torch

    from orchestrator.engines.fastconformer import artifact
    from orchestrator.engines.fastconformer.artifact import Description
    from orchestrator.engines.fastconformer.config import (
        EncoderConfig,
        FeatureConfig,
        HeadConfig,
        ModelConfig,
    )
    from orchestrator.engines.fastconformer.network import FastConformer
    from orchestrator.engines.fastconformer.tokens import Tokens

    folder = tmp_path_factory.mktemp("fastconformer")
    pieces = ("<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz'")
    config = ModelConfig(
        FeatureConfig(mels=40, fft=512, window=400, hop=160, preemphasis=0.97, log_guard=2**-24),
        EncoderConfig(1, 32, 2, 64, 9, 8, 8, bias=True, scale_input=False),
        HeadConfig("ctc", len(pieces)),
    )
    torch.manual_seed(0)
    weights = {name: value.detach() for name, value in FastConformer(config).state_dict().items()}
    artifact.save(folder, Description(config, Tokens(pieces, unknown=(0,)), ("en",)), weights)
    return folder


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded weights, as a release has them."""
    import moonshine_voice

    folder = tmp_path_factory.mktemp("embedded")
    encoder = Path(moonshine_voice.__file__).parent / "assets/tiny-en/encoder_model.ort"
    (folder / encoder.name).symlink_to(encoder)
    head = DIALOGUE.with_name("aligner_head.safetensors")
    (folder / head.name).symlink_to(head)
    return folder


@pytest.mark.parametrize("kind", ["wav2vec2", "fastconformer", "embedded"])
def test_all_weights_give_every_word_a_time_alone_or_in_a_batch(
    kind: str, request: pytest.FixtureRequest
) -> None:
    aligner = load_aligner("aligner", EngineSource(request.getfixturevalue(kind), threads=1))
    rng = np.random.default_rng(0)
    batch = [
        (rng.normal(0, 0.1, size).astype(np.float32), words)
        for size, words in ((40_000, WORDS), (16_000, WORDS[:3]), (300, ("a",)), (32_000, ()), (0, ("a",)))
    ]
    together = aligner.align(batch, AlignmentOptions(language="en-US"))
    assert together == [aligner.align([one])[0] for one in batch]
    for (samples, words), times in zip(batch, together, strict=True):
        length_ms = samples.size * 1000 // SAMPLE_RATE_HZ
        assert len(times) == len(words)
        assert all(0 <= word.start_ms <= word.end_ms <= length_ms for word in times)
        assert all(left.start_ms <= right.start_ms for left, right in pairwise(times))
        assert all(0 <= word.confidence <= 1 for word in times)
    with pytest.raises(UnsupportedLanguageError):
        aligner.align(batch, AlignmentOptions(language="kn"))


def test_the_embedded_weights_find_the_words_of_each_turn_in_it(embedded: Path) -> None:
    import soundfile

    samples, rate = soundfile.read(DIALOGUE, dtype="float32")
    assert rate == SAMPLE_RATE_HZ
    turns = json.loads(DIALOGUE.with_suffix(".json").read_text())["turns"]
    words = tuple(word for turn in turns for word in turn["text"].split())
    (times,) = load_aligner("aligner", EngineSource(embedded, threads=1)).align([(samples, words)])
    assert all(word.measured for word in times)
    at = 0
    edges: list[float] = []
    outside: list[float] = []
    for turn in turns:
        said = times[at : at + len(turn["text"].split())]
        at += len(said)
        start_ms, end_ms = 1000 * turn["start_s"], 1000 * turn["end_s"]
        outside += [max(start_ms - word.start_ms, word.end_ms - end_ms, 0.0) for word in said]
        edges += [abs(said[0].start_ms - start_ms), abs(said[-1].end_ms - end_ms)]
    assert np.median(edges) < _EDGE_MS
    assert np.quantile(outside, 0.9) < _OUTSIDE_MS


def test_a_text_that_was_not_said_is_not_measured(embedded: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 3 * SAMPLE_RATE_HZ).astype(np.float32)
    (times,) = load_aligner("aligner", EngineSource(embedded, threads=1)).align([(noise, ("never", "said"))])
    assert not any(word.measured for word in times)


def test_weights_that_cannot_align_are_refused_with_the_fix(tmp_path: Path, wav2vec2: Path) -> None:
    with pytest.raises(ModelLoadError, match="no weights") as refused:
        load_aligner("aligner", EngineSource(tmp_path))
    assert refused.value.fix is not None
    (tmp_path / "model.nemo").symlink_to(next(DIALOGUE.parent.glob("*.nemo")))
    with pytest.raises(ModelLoadError, match="no CTC head"):
        load_aligner("aligner", EngineSource(tmp_path))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in wav2vec2.iterdir():
        (damaged / file.name).write_bytes(
            file.read_bytes()[: -200 if file.suffix == ".safetensors" else None]
        )
    with pytest.raises(ModelLoadError):
        load_aligner("aligner", EngineSource(damaged))


@pytest.mark.parametrize("kind", ["wav2vec2", "fastconformer"])
def test_a_device_that_is_not_there_is_told_as_for_any_engine(
    kind: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    with pytest.raises(ModelLoadError, match="device cuda:63 is not there") as absent:
        load_aligner("aligner", EngineSource(folder, "cuda:63"))
    with pytest.raises(ConfigurationError, match="no torch device 'gpu'") as unknown:
        load_aligner("aligner", EngineSource(folder, "gpu"))
    for caught in (absent.value, unknown.value):
        assert (caught.model, bool(caught.fix)) == ("aligner", True)


def test_a_served_aligner_times_the_words_of_an_engine_without_times(
    tmp_path: Path, make_home: Callable[[Path], Path], tritonserver: Any
) -> None:
    from orchestrator.client import SpeechClient
    from orchestrator.client.triton import TritonTransport
    from orchestrator.repository.builder import Builder
    from orchestrator.repository.plan import make_plan
    from orchestrator.repository.validate import machine
    from orchestrator.runtime.server import TritonServer
    from tests.conftest import free_server_settings

    home = make_home(tmp_path / "home")
    plan = make_plan({"moonshine": "embedded", "aligner": "embedded"}, target=machine())  # type: ignore[arg-type]
    release = Builder(home=home, models=resources.model_repository()).build(plan).release
    with TritonServer(
        release.model_repository,
        release.models,
        triton=tritonserver,
        home=home,
        settings=free_server_settings(),
    ) as server:
        with SpeechClient(server.url) as client:
            measured = client.transcribe(DIALOGUE, diarize=False)
            spread = client.transcribe(DIALOGUE, diarize=False, align=False)
        assert spread.times_estimated
        assert spread.alignment is None
        assert not measured.times_estimated
        assert measured.text == spread.text
        assert measured.alignment is not None
        assert measured.alignment.model == "aligner"
        assert measured.alignment.measured >= 0.9 * len(measured.words)

        async def wrong() -> None:
            transport = TritonTransport(server.url, timeout_s=60, max_concurrency=4)
            try:
                audio = np.zeros(SAMPLE_RATE_HZ, dtype=np.float32)
                with pytest.raises(InvalidRequestError, match="at most"):
                    await transport.align("aligner", audio, ["word"] * 2001, AlignmentOptions())
                # Several at once, of different lengths: one batch.
                texts = [["hello"], ["hello", "there", "you"], []]
                for words in texts:
                    assert len(await transport.align("aligner", audio, words, AlignmentOptions())) == len(
                        words
                    )
            finally:
                await transport.close()

        asyncio.run(wrong())
    report = word_times_command.run(release, None, 1, progress=SilentProgress())
    rows = {(row["speech"], row["times"]): row for row in report.rows}
    for voice in VOICES:
        row = rows[f"festival {voice}", "known words, aligned"]
        assert isinstance(row["start_median_ms"], int)
        assert row["start_median_ms"] < _EDGE_MS
        assert (f"festival {voice}", "moonshine, estimated") in rows
