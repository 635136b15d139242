"""Weights that never were a NeMo file say the same in NeMo."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.bench.synthetic import speech_like, write
from orchestrator.bench.throughput.twin import twin
from orchestrator.engines import load
from orchestrator.engines.base import EngineSource

pytestmark = pytest.mark.integration


def test_the_twin_says_what_the_engine_says(tmp_path: Path) -> None:
    write(tmp_path, shape="tiny", precision="float32")
    audio = list(speech_like(3, 6.0, seed=5))
    ours = [found.text for found in load("parakeet", EngineSource(tmp_path)).recognize(audio)]
    found = twin(tmp_path, "cpu").transcribe(audio, batch_size=3, verbose=False, num_workers=0)
    assert [hypothesis.text for hypothesis in found] == ours
    assert all(len(text.split()) > 3 for text in ours)
