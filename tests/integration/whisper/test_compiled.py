"""What torch.compile made for whisper_torch is kept, and used by the next process and by a server.

What is counted are torch's graphs: for a CPU it keeps their C++, and g++ makes machine code of it where the
inductor's own folder is new. torch finds out a CPU's vector instructions with six Pythons that each import
torch; in here it does without, which is slower code compiled in half the time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import soundfile

from orchestrator.audio import decode
from orchestrator.client import SpeechClient
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.whisper_native import artifacts
from orchestrator.runtime.demo import synthetic_dialogue
from orchestrator.settings_engines import WhisperSettings
from tests.conftest import server_of
from tests.integration.whisper.checkpoints import random_checkpoint
from tests.integration.whisper.serving import MakeHome, build

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU"),
]
SPEECH_S = 3
_ENVIRONMENT = {"TORCHINDUCTOR_VEC_ISA_OK": "0", "OMP_NUM_THREADS": "1"}
_PROGRAM = f"""
import json, sys
from pathlib import Path
import torch
from torch._dynamo.utils import counters
from orchestrator.audio import decode
from orchestrator.engines.base import EngineSource, RecognitionOptions
from orchestrator.engines import whisper_torch
from orchestrator.runtime.demo import synthetic_dialogue
options = dict(compile=True, beam_size=1, batch_size=1, compiled_folder=sys.argv[2])
engine = whisper_torch.load(EngineSource(Path(sys.argv[1]), threads=1, options=options))
speech = decode(synthetic_dialogue()).samples[0][: {SPEECH_S} * {SAMPLE_RATE_HZ}]
text = engine.recognize([speech], RecognitionOptions(language="en"))[0].text
misses, hits = (counters["inductor"][f"fxgraph_cache_{{name}}"] for name in ("miss", "hit"))
print(json.dumps([text, misses, hits, engine._torch.compiled]))
"""


@dataclass(frozen=True)
class Compiled:
    """A checkpoint, and what a first process kept of what it compiled."""

    checkpoint: Path
    kept: Path
    text: str
    """What that process heard."""


def _start(checkpoint: Path, kept: Path, own: Path) -> list[Any]:
    """A process with a cache of its own, ``own``: only what was kept can help."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(checkpoint), str(kept)],
        env={**os.environ, **_ENVIRONMENT, "TORCHINDUCTOR_CACHE_DIR": str(own)},
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    folder = tmp_path_factory.mktemp("compiled")
    checkpoint, kept = random_checkpoint(folder / "weights", 1), folder / "kept"
    text, misses, _, used = _start(checkpoint, kept, folder / "own")
    assert used, "or it fell back to what is not compiled"
    # One graph for all encoder layers, one for all decoder layers.
    assert misses == 2
    return Compiled(checkpoint, kept, text)


def test_a_second_process_finds_all_graphs_in_what_was_kept(compiled: Compiled, tmp_path: Path) -> None:
    (file,) = compiled.kept.iterdir()
    assert file.suffix == artifacts.SUFFIX
    text, misses, hits, used = _start(compiled.checkpoint, compiled.kept, tmp_path / "own")
    assert used
    assert (misses, hits) == (0, 2)
    assert text == compiled.text


def test_a_server_uses_what_its_release_brings(
    compiled: Compiled, tmp_path: Path, make_home: MakeHome, tritonserver: Any
) -> None:
    source, home = tmp_path / "weights", make_home(tmp_path / "home")
    shutil.copytree(compiled.checkpoint, source)
    shutil.copytree(compiled.kept, source / artifacts.RELEASE_FOLDER)
    recording = tmp_path / "talk.wav"
    said = decode(synthetic_dialogue()).samples[0][: SPEECH_S * SAMPLE_RATE_HZ]
    soundfile.write(recording, said, SAMPLE_RATE_HZ, subtype="PCM_16")
    settings = WhisperSettings(beam_size=1, batch_size=1, threads=1, compile=True)
    release = build(home, "whisper_torch", source, settings)
    environment = {**os.environ, **_ENVIRONMENT}
    with server_of(release, home, tritonserver, environment) as server, SpeechClient(server.url) as client:
        found = client.transcribe(recording, engine="whisper_torch", diarize=False, language="en")
        log = Path(server.state.log).read_text(errors="replace")
    assert found.text == compiled.text
    assert "going on without" not in log, "it was compiled, or loaded"
    caches = home / "cache" / "gpu"
    assert any((caches / "inductor" / "fxgraph").iterdir()), "what was loaded lies there"
    assert not (caches / "whisper_torch").exists(), "what is compiled anew is kept there"
