"""A release of the embedded checkpoint, built and served by the real tritonserver."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc

from orchestrator import audio, resources
from orchestrator.engines import EngineSource, load
from orchestrator.progress import SilentProgress
from orchestrator.repository.builder import Builder
from orchestrator.repository.loadcheck import server_load_check
from orchestrator.repository.plan import make_plan
from orchestrator.repository.release import verify
from orchestrator.repository.validate import machine
from orchestrator.runtime.server import TritonServer
from orchestrator.settings import ServerSettings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
DIALOGUE = Path(__file__).parents[3] / "orchestrator" / "training" / "checkpoint" / "dialogue.flac"


def test_a_release_holds_the_lean_form_and_the_server_recognises_with_it(
    tmp_path: Path,
    make_home: Callable[[Path], Path],
    tritonserver: Any,
    server_settings: ServerSettings,
) -> None:
    home = make_home(tmp_path / "home")
    check = server_load_check(home, server_settings, SilentProgress())
    plan = make_plan({"parakeet": "embedded"}, target=machine())  # type: ignore[arg-type]
    result = Builder(home=home, models=resources.model_repository(), load=check).build(plan)
    release = result.release
    assert result.notes == ()
    assert release.checks["load in tritonserver"] == "passed"
    verify(release)
    folder = release.model_repository / "parakeet" / "1"
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.py", "model.safetensors"]
    assert json.loads((folder / "model.json").read_text())["precision"] == "float32"
    assert "nemo_toolkit" not in release.manifest.packages

    samples = audio.decode(DIALOGUE).samples[0]
    expected = load("parakeet", EngineSource(folder, threads=1)).recognize([samples])[0].words
    assert len(expected) > 40
    with TritonServer(
        release.model_repository, release.models, triton=tritonserver, home=home, settings=server_settings
    ) as server:
        client = grpc.InferenceServerClient(server.url)
        tensor = grpc.InferInput("PCM16", [1, samples.size], "INT16")
        tensor.set_data_from_numpy(np.rint(samples * 32768).astype(np.int16)[np.newaxis])
        answer = client.infer("parakeet", [tensor], client_timeout=120)
        client.close()
    assert [word.decode() for word in answer.as_numpy("WORD")[0]] == [word.text for word in expected]
    assert answer.as_numpy("WORD_START_MS")[0].tolist() == [word.start_ms for word in expected]
    assert answer.as_numpy("WORD_END_MS")[0].tolist() == [word.end_ms for word in expected]
    confidences = [word.confidence for word in expected]
    assert answer.as_numpy("WORD_CONFIDENCE")[0].tolist() == pytest.approx(confidences, abs=1e-3)
