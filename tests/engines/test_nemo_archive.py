from __future__ import annotations

import copy
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.engines import nemo_archive
from orchestrator.errors import ModelLoadError

MODELS = "nemo.collections.asr.models"
MODULES = "nemo.collections.asr.modules"
CONFIG: dict[str, Any] = {
    "target": f"{MODELS}.rnnt_bpe_models.EncDecRNNTBPEModel",
    "nemo_version": "2.1.0",
    "sample_rate": 16000,
    "preprocessor": {
        "_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor",
        "sample_rate": 16000,
        "window_stride": 0.01,
    },
    "encoder": {"_target_": f"{MODULES}.ConformerEncoder", "subsampling_factor": 8},
    "decoder": {"_target_": f"{MODULES}.RNNTDecoder"},
    "joint": {"_target_": f"{MODULES}.RNNTJoint"},
    "decoding": {"strategy": "greedy_batch", "model_type": "tdt", "durations": [0, 1, 2]},
    "loss": {"loss_name": "tdt"},
    "tokenizer": {"type": "bpe", "model_path": "nemo:abc_tokenizer.model"},
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write an archive of ``CONFIG`` with ``changes`` at dotted keys (None removes)."""

    def write_archive(
        changes: dict[str, Any] | None = None, *, mode: str = "w:", leave_out: str = "", config: bytes = b""
    ) -> Path:
        values = copy.deepcopy(CONFIG)
        for key, value in (changes or {}).items():
            *parents, last = key.split(".")
            part = values
            for parent in parents:
                part = part.setdefault(parent, {})
            if value is None:
                part.pop(last, None)
            else:
                part[last] = value
        files = {
            "./model_config.yaml": config or yaml.safe_dump(values, sort_keys=False).encode(),
            "./abc_tokenizer.model": b"pieces",
            "./model_weights.ckpt": bytes(50_000),
        }
        path = tmp_path / "model.nemo"
        with tarfile.open(path, mode) as archive:
            for name, data in files.items():
                if name != f"./{leave_out}":
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        return path

    return write_archive


@pytest.mark.parametrize("mode", ["w:", "w:gz"])
def test_a_checkpoint_tells_what_it_is(write: Write, mode: str) -> None:
    assert nemo_archive.read(write(mode=mode)) == nemo_archive.Checkpoint(
        target=CONFIG["target"],
        decoder="tdt",
        sample_rate_hz=16000,
        languages=(),
        subsampling=8,
        frame_ms=80.0,
        nemo_version="2.1.0",
        compressed=mode == "w:gz",
    )


HYBRID = f"{MODELS}.EncDecHybridRNNTCTCBPEModel"
RNNT = {"loss.loss_name": "default", "decoding": {"strategy": "greedy_batch"}}


@pytest.mark.parametrize(
    ("changes", "decoder"),
    [
        ({}, "tdt"),
        ({"loss": None}, "tdt"),
        (RNNT, "rnnt"),
        ({"target": f"{MODELS}.EncDecCTCModelBPE"}, "ctc"),
        ({"target": HYBRID}, "hybrid-tdt-ctc"),
        ({"target": HYBRID, **RNNT}, "hybrid-rnnt-ctc"),
    ],
)
def test_the_decoder_is_told_apart(write: Write, changes: dict[str, Any], decoder: str) -> None:
    assert nemo_archive.read(write(changes)).decoder == decoder


@pytest.mark.parametrize(
    ("changes", "languages"),
    [
        ({"languages": ["en", "de-DE"]}, ("en", "de")),
        ({"tokenizer.langs": {"es": {"type": "bpe"}, "en": {"type": "bpe"}}}, ("es", "en")),
    ],
)
def test_languages_come_from_the_checkpoint(
    write: Write, changes: dict[str, Any], languages: tuple[str, ...]
) -> None:
    assert nemo_archive.read(write(changes)).languages == languages


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target": f"{MODELS}.label_models.EncDecSpeakerLabelModel"}, "EncDecSpeakerLabelModel"),
        ({"target": f"{MODELS}.rnnt_models.EncDecRNNTModel"}, "EncDecRNNTModel"),
        ({"target": "os.system.EncDecRNNTBPEModel"}, "does not run"),
        ({"target": None}, "unknown class"),
        ({"encoder._target_": f"{MODULES}.ConvASREncoder"}, "not a (Fast)Conformer"),
        ({"encoder._target_": "evil.ConformerEncoder"}, "not a (Fast)Conformer"),
        ({"joint._target_": "subprocess.Popen"}, "subprocess.Popen"),
        ({"aux_ctc.decoder._target_": "subprocess.Popen"}, "subprocess.Popen"),
        ({"sample_rate": 8000}, "8000 Hz"),
        ({"preprocessor.window_stride": None}, "window_stride"),
        ({"encoder.subsampling_factor": "many"}, "many"),
    ],
)
def test_another_model_is_refused_by_name(write: Write, changes: dict[str, Any], reason: str) -> None:
    path = write(changes)
    with pytest.raises(ModelLoadError) as caught:
        nemo_archive.read(path)
    assert reason in caught.value.message
    assert caught.value.path == str(path)
    assert caught.value.fix


@pytest.mark.parametrize("name", ["model_config.yaml", "model_weights.ckpt", "abc_tokenizer.model"])
def test_a_missing_part_is_named(write: Write, name: str) -> None:
    with pytest.raises(ModelLoadError, match=name):
        nemo_archive.read(write(leave_out=name))


@pytest.mark.parametrize("config", [b"a: [", b"just text", b"\xff\xfe\x00bad"])
def test_a_broken_configuration_is_refused(write: Write, config: bytes) -> None:
    with pytest.raises(ModelLoadError, match=r"model_config\.yaml"):
        nemo_archive.read(write(config=config))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no checkpoint"):
        nemo_archive.read(tmp_path / "model.nemo")


@pytest.mark.parametrize(
    "content", [b"", b"not a tar at all", b"\x1f\x8b\x08broken", b"<html>404</html>" * 99]
)
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.nemo"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError) as caught:
        nemo_archive.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("mode", ["w:", "w:gz"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(write: Write, mode: str, kept: float) -> None:
    path = write(mode=mode)
    data = path.read_bytes()
    # The last 10 kB of an uncompressed tar may be empty blocks, which hold nothing.
    path.write_bytes(data[: int(kept * (len(data) - 10_240 if mode == "w:" else len(data)))])
    with pytest.raises(ModelLoadError):
        nemo_archive.read(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError):
        nemo_archive.read(tmp_path)


@pytest.mark.parametrize("weights", [True, False])
def test_unpack_writes_the_small_files_and_the_weights_on_request(
    write: Write, tmp_path: Path, weights: bool
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    nemo_archive.unpack(write(), folder, weights=weights)
    names = {"abc_tokenizer.model", "model_config.yaml"} | ({"model_weights.ckpt"} if weights else set())
    assert {file.name for file in folder.iterdir()} == names


def test_unpack_writes_nothing_outside_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.nemo"
    with tarfile.open(path, "w:") as archive:
        info = tarfile.TarInfo("../outside.txt")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"evil"))
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(ModelLoadError):
        nemo_archive.unpack(path, folder, weights=True)
    assert not (tmp_path / "outside.txt").exists()


def test_the_weights_are_read_where_they_lie(write: Write) -> None:
    archive, file = nemo_archive.open_weights(write())
    with archive:
        assert file.read() == bytes(50_000)


def test_looking_at_a_checkpoint_imports_neither_torch_nor_nemo() -> None:
    code = (
        "import sys, orchestrator.engines.nemo_archive, orchestrator.engines.nemo_words,"
        "orchestrator.engines.nemo_batches\n"
        "print(sorted({'torch', 'nemo', 'omegaconf'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
