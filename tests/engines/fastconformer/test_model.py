"""The Parakeet engine on the native runtime: what calls share and what they do not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.bench import synthetic
from orchestrator.engines import acoustic, parakeet
from orchestrator.engines.base import EngineSource, Recognition
from orchestrator.engines.parakeet import ParakeetRecognizer
from orchestrator.engines.parakeet_runtime import default_padded_s
from orchestrator.errors import AudioValueError, InferenceError

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny")
    synthetic.write(made, shape="tiny", precision="float32")
    return made


@pytest.fixture
def load(folder: Path) -> Callable[..., ParakeetRecognizer]:
    def recognizer(**options: Any) -> ParakeetRecognizer:
        return ParakeetRecognizer(EngineSource(folder, threads=1, options=options))

    return recognizer


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return list(synthetic.speech_like(6, 4.0, seed=9))


def test_a_call_prepares_its_audio_while_another_has_the_device(
    load: Callable[..., ParakeetRecognizer], clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = load()
    expected = recognizer.recognize(clips[:2])
    compute: Any = recognizer._model._compute  # type: ignore[union-attr]
    encode = compute.encode
    computing, other_is_ready, go_on = threading.Event(), threading.Event(), threading.Event()
    inside: list[int] = []

    def slow(audio: Any, lengths: Any) -> Any:
        inside.append(len(audio))
        assert len(inside) == 1, "two batches on the device at once"
        computing.set()
        assert go_on.wait(20)
        try:
            return encode(audio, lengths)
        finally:
            inside.clear()

    def prepared(chosen: Any, *, device: Any) -> Any:
        batch = acoustic.padded(chosen, device=device)
        if len(chosen) == 1:
            other_is_ready.set()
        return batch

    monkeypatch.setattr(compute, "encode", slow)
    monkeypatch.setattr(parakeet, "padded", prepared)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(recognizer.recognize, clips[:2])
        assert computing.wait(20)
        second = pool.submit(recognizer.recognize, clips[2:3])
        assert other_is_ready.wait(20), "it waited for the device before it prepared anything"
        go_on.set()
        assert first.result(20) == expected
        assert second.result(20)[0].words


def test_a_closed_engine_says_so_and_lets_running_calls_end(
    load: Callable[..., ParakeetRecognizer], clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = load()
    expected = recognizer.recognize(clips[:1])
    compute: Any = recognizer._model._compute  # type: ignore[union-attr]
    encode = compute.encode

    def closing(audio: Any, lengths: Any) -> Any:
        recognizer.close()
        return encode(audio, lengths)

    monkeypatch.setattr(compute, "encode", closing)
    assert recognizer.recognize(clips[:1]) == expected
    with pytest.raises(InferenceError, match="closed"):
        recognizer.recognize(clips[:1])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_batches_bounded_by_seconds_and_items_say_the_same(
    load: Callable[..., ParakeetRecognizer], clips: list[np.ndarray], precision: str
) -> None:
    def texts(found: list[Recognition]) -> list[str]:
        return [recognition.text for recognition in found]

    one_by_one = texts(load(max_batch=1, precision=precision).recognize(clips))
    assert texts(load(max_padded_s=4.0, precision=precision).recognize(clips)) == one_by_one


def test_warming_up_recognises_without_an_answer(load: Callable[..., ParakeetRecognizer]) -> None:
    recognizer = load()
    heard: list[int] = []
    model: Any = recognizer._model
    tokens = model.tokens

    def noted(audio: Any, lengths: Any) -> Any:
        heard.append(int(audio.abs().max() > 0))
        return tokens(audio, lengths)

    model.tokens = noted
    recognizer.warm_up()
    assert heard == [1]


def test_padding_is_silence_and_keeps_16_bits_only_on_the_way_to_a_gpu() -> None:
    floats = np.array([0.5, -0.25], dtype=np.float32)
    integers = np.array([16384, -32768, 1], dtype=np.int16)
    mixed = acoustic.padded([floats, integers], device=torch.device("cpu"))
    assert mixed.dtype == torch.float32
    assert mixed.tolist() == [[0.5, -0.25, 0.0], [0.5, -1.0, 1 / 32768]]
    only = acoustic.padded([integers], device=torch.device("cpu"))
    assert only.tolist() == mixed[1:].tolist()
    assert acoustic.on_device(torch.from_numpy(integers)[None], torch.device("cpu")).tolist() == only.tolist()


@pytest.mark.parametrize(
    ("memory", "integrated", "expected"),
    [(143e9, 0, 2600), (80e9, 0, 2500), (128e9, 1, 2000), (24e9, 0, 750), (4e9, 0, 240)],
)
def test_the_audio_of_a_step_fits_the_gpus_memory(
    monkeypatch: pytest.MonkeyPatch, memory: float, integrated: int, expected: float
) -> None:
    properties = SimpleNamespace(total_memory=int(memory), is_integrated=integrated)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert default_padded_s(torch.device("cuda")) == expected
    assert default_padded_s(torch.device("cpu")) == 240


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_sample_among_many_is_found(load: Callable[..., ParakeetRecognizer], bad: float) -> None:
    samples = np.zeros(100_000, dtype=np.float32)
    samples[77_777] = bad
    with pytest.raises(AudioValueError, match="Recording 0"):
        load().recognize([samples])


def test_absurdly_loud_samples_are_finite_nevertheless(load: Callable[..., ParakeetRecognizer]) -> None:
    load().recognize([np.full(16_000, 1e30, dtype=np.float32)])
    with pytest.raises(AudioValueError):
        load().recognize([np.full(16_000, 1e300)])  # not in float32
