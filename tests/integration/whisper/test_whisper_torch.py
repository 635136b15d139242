"""whisper_torch, and whisper_trt's graphs on a CPU, on models that say what a test wants to hear."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit

from orchestrator.audio import decode
from orchestrator.engines import whisper_torch, whisper_trt
from orchestrator.engines.base import EngineSource, RecognitionOptions, Recognizer, Samples
from orchestrator.engines.whisper_native import artifacts
from orchestrator.errors import (
    ConfigurationError,
    MissingDependencyError,
    ModelLoadError,
    UnsupportedLanguageError,
)
from orchestrator.runtime.demo import synthetic_dialogue
from tests.engines.whisper.tiny import Tiny
from tests.integration.whisper.checkpoints import random_checkpoint

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
TEXT = "the quick brown fox jumps over it"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def speech() -> Samples:
    return decode(synthetic_dialogue()).samples[0][: 8 * 16_000]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = Tiny(TEXT, "fr").write_transformers(tmp_path_factory.mktemp("tiny"))
    settings = target / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"alignment_heads": [[0, 0], [0, 1]]}))
    return target


@pytest.fixture(scope="module", params=["whisper_torch", "whisper_trt"])
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[Recognizer]:
    options: dict[str, Any] = {"beam_size": 2, "batch_size": 2, "max_tokens": 30}
    if request.param == "whisper_torch":
        loaded: Recognizer = whisper_torch.load(EngineSource(folder, options=options))
    else:
        loaded = whisper_trt.load(EngineSource(folder, options={**options, "backend": "onnxruntime"}))
    yield loaded
    loaded.close()


def test_words_times_and_the_language_are_found(engine: Recognizer, speech: Samples) -> None:
    (found,) = engine.recognize([speech])
    assert found.language == "fr"
    assert found.language_confidence is not None
    assert found.language_confidence > 0.9
    assert not found.times_estimated
    assert found.text.startswith(TEXT)
    starts = [word.start_ms for word in found.words]
    assert starts == sorted(starts)
    assert all(0 <= word.start_ms <= word.end_ms <= 8000 for word in found.words)
    # The last one has a token glued to it that the model did not mean.
    assert all(word.confidence > 0.9 for word in found.words[:6])


def test_alone_and_in_a_batch_the_words_are_the_same(engine: Recognizer, speech: Samples) -> None:
    silence = np.zeros(16_000, np.float32)
    given = RecognitionOptions(language="en")
    alone = engine.recognize([speech], given)
    together = engine.recognize([silence, speech[: 3 * 16_000], speech, silence[:10]], given)
    assert together[2] == alone[0]
    assert [len(one.words) > 0 for one in together] == [False, True, True, False]
    assert {one.language_confidence for one in together} == {None}
    assert engine.recognize([]) == []


def test_a_language_that_is_none_of_its_own_is_refused(engine: Recognizer, speech: Samples) -> None:
    with pytest.raises(UnsupportedLanguageError, match="tlh"):
        engine.recognize([speech], RecognitionOptions(language="tlh"))


def test_without_heads_that_align_times_are_estimated(tmp_path: Path, speech: Samples) -> None:
    target = Tiny(TEXT).write_transformers(tmp_path)
    engine = whisper_torch.load(EngineSource(target, options={"beam_size": 1}))
    (found,) = engine.recognize([speech])
    assert found.times_estimated
    assert found.text.startswith(TEXT)
    starts = [word.start_ms for word in found.words]
    assert starts == sorted(starts)
    assert starts[-1] > 0


def test_drawn_texts_are_the_same_at_every_call(tmp_path: Path, speech: Samples) -> None:
    """A random network's text is never sound, so that all efforts are made."""
    target = random_checkpoint(tmp_path, 5)
    options = {"beam_size": 1, "temperatures": [0.5], "max_tokens": 12}
    engine = whisper_torch.load(EngineSource(target, options=options))
    given = RecognitionOptions(language="en")
    first, second = (engine.recognize([speech], given)[0] for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("options", "said"),
    [({"beam_size": 0}, "beam_size"), ({"colour": 1}, "colour"), ({"max_rows": 0}, "max_rows")],
)
def test_wrong_options_are_refused(folder: Path, options: dict[str, Any], said: str) -> None:
    for load in (whisper_torch.load, whisper_trt.load):
        with pytest.raises(ConfigurationError, match=said):
            load(EngineSource(folder, options=options))


@pytest.mark.parametrize("damage", ["cut", "other", "missing"])
def test_damaged_weights_are_refused(folder: Path, tmp_path: Path, damage: str) -> None:
    target = tmp_path / "copy"
    shutil.copytree(folder, target)
    weights = target / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "other":
        config = json.loads((target / "config.json").read_text())
        (target / "config.json").write_text(json.dumps(config | {"decoder_ffn_dim": 96}))
    else:
        weights.unlink()
    with pytest.raises(ModelLoadError):
        whisper_torch.load(EngineSource(target))


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_without_tensorrt_the_fix_is_told(folder: Path) -> None:
    with pytest.raises(MissingDependencyError, match="needs TensorRT on the target") as caught:
        whisper_trt.load(EngineSource(folder, "cuda"))
    assert "tensorrt-cu13" in str(caught.value.fix)


@pytest.mark.parametrize("kind", [RuntimeError, FailOnRecompileLimitHit])
def test_what_cannot_be_compiled_is_computed_without(
    kind: type[Exception],
    folder: Path,
    speech: Samples,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise kind("no compiler here")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: refuse)
    options = {"compile": True, "beam_size": 1, "compiled_folder": str(tmp_path / "kept")}
    with caplog.at_level(logging.WARNING):
        engine = whisper_torch.load(EngineSource(folder, options=options))
    assert "torch.compile failed, going on without: no compiler here" in caplog.text
    assert engine.recognize([speech])[0].text.startswith(TEXT)
    assert not (tmp_path / "kept").exists()


def test_kept_code_that_is_damaged_or_not_ours_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = artifacts.Key("2.11.0+cu130", "3.6.0", "NVIDIA GB10 sm_121", "a network")
    store = artifacts.Store(key, tmp_path)
    assert not store.load()
    (tmp_path / key.name).write_bytes(b"x" * 100)
    with caplog.at_level(logging.WARNING):
        assert not store.load()
    assert "is damaged, compiling anew" in caplog.text
    assert artifacts.Store(key, None).save() is None
    others = [
        artifacts.Key("2.12.0", key.triton, key.device, key.network),
        artifacts.Key(key.torch, "3.7.0", key.device, key.network),
        artifacts.Key(key.torch, key.triton, "NVIDIA H200 sm_90", key.network),
        artifacts.Key(key.torch, key.triton, key.device, "another"),
    ]
    assert len({one.name for one in [key, *others]}) == 5


def test_where_code_is_kept() -> None:
    assert artifacts.cache_folder({}) is None
    assert artifacts.cache_folder({"TORCHINDUCTOR_CACHE_DIR": "/a/b/inductor"}) == Path("/a/b/whisper_torch")
