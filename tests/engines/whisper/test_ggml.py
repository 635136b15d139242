from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.engines.whisper import ggml
from orchestrator.errors import ModelLoadError
from tests.engines.whisper.tiny import Tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Tiny("it was the best of times").write_ggml(tmp_path_factory.mktemp("ggml") / ggml.ARTIFACT)


@pytest.fixture(scope="module")
def whole(model: Path) -> bytes:
    return model.read_bytes()


def refused(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / ggml.ARTIFACT
    path.write_bytes(data)
    with pytest.raises(ModelLoadError) as caught:
        ggml.read(path)
    assert caught.value.fix
    return caught.value.message


def test_a_sound_file_says_its_shape_and_languages(model: Path) -> None:
    found = ggml.read(model)
    assert found.shape.audio_width == 64
    assert found.shape.vocabulary == 51_865
    assert len(found.codes) == 99
    assert "jv" in ggml.inspect({ggml.ARTIFACT: model})


def test_english_weights_know_english_only(tmp_path: Path) -> None:
    english = Tiny("yes", multilingual=False).write_ggml(tmp_path / ggml.ARTIFACT)
    assert ggml.inspect({ggml.ARTIFACT: english}) == ("en",)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no model of whisper.cpp"),
        (b"GGUF" + bytes(100), "GGUF"),
        (b"PK\x03\x04" + bytes(100), "PyTorch"),
        (b"\x06\0\0\0\x0c\0WhisperSpec\0", "whisper_ct2"),
        (struct.pack("<I", ggml.MAGIC), "cut off"),
        (struct.pack("<I11i", ggml.MAGIC, *[-1] * 11), "no Whisper has"),
        (struct.pack("<I11i", ggml.MAGIC, *[2**31 - 1] * 11), "no Whisper has"),
        (struct.pack("<I13i", ggml.MAGIC, 51865, *[8] * 8, 80, 1, 81, 201), "mel filters"),
        (struct.pack("<I13i", ggml.MAGIC, 51865, 8, 8, 3, *[8] * 5, 80, 1, 80, 201), "heads"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, data: bytes, reason: str) -> None:
    assert reason in refused(tmp_path, data)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelLoadError, match=ggml.ARTIFACT):
        ggml.inspect({"model.bin": Path("x")})
    with pytest.raises(ModelLoadError, match="cannot be read"):
        ggml.read(Path("/nowhere") / ggml.ARTIFACT)


@pytest.mark.parametrize("left", [0.999999, 0.98, 0.5, 0.2, 0.01, 0.0001])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, whole: bytes, left: float) -> None:
    assert "cut off" in refused(tmp_path, whole[: int(len(whole) * left)])


def test_a_tensor_that_is_missing_renamed_or_extra_is_refused(tmp_path: Path, whole: bytes) -> None:
    # A tensor's three numbers and its one dimension stand before its name.
    last = whole.rindex(b"decoder.blocks.0.cross_attn.out.bias") - 16
    assert "lacks the tensor" in refused(tmp_path, whole[:last])
    assert "lacks the tensor" in refused(tmp_path, whole.replace(b"decoder.ln.bias", b"decoder.ln.bios"))
    assert "does not have" in refused(tmp_path, whole + struct.pack("<3i1i", 1, 3, 0, 1) + b"odd" + bytes(4))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_byte_that_is_changed_makes_anything_else_than_an_error(
    tmp_path: Path, whole: bytes, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, 4096))
    changed = bytearray(whole[:200_000])
    changed[place] = data.draw(st.integers(0, 255))
    path = tmp_path / ggml.ARTIFACT
    path.write_bytes(bytes(changed))
    with pytest.raises(ModelLoadError):  # it is cut off in any case
        ggml.read(path)
