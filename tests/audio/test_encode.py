from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.audio import decode, to_pcm16, wav_bytes, write_wav
from orchestrator.errors import AudioError

RAMP = np.linspace(-1, 1, 2_000, dtype=np.float32)


def test_pcm16_is_little_endian_interleaved_and_clipped() -> None:
    planes = np.array([[0.5, 1.5], [-1.0, -7.0]], np.float32)
    assert to_pcm16(planes) == np.array([16384, -32768, 32767, -32768], "<i2").tobytes()


def test_a_wav_written_is_the_wav_read(tmp_path: Path) -> None:
    planes = np.stack([RAMP, -RAMP])
    write_wav(tmp_path / "a.wav", planes)
    assert (tmp_path / "a.wav").read_bytes() == wav_bytes(planes)
    np.testing.assert_allclose(
        decode(tmp_path / "a.wav", channels="separate").samples, planes, atol=1 / 32768
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"a\.wav cannot be written: No such file"):
        write_wav(tmp_path / "none" / "a.wav", RAMP)
    (tmp_path / "taken").mkdir()
    with pytest.raises(AudioError):
        write_wav(tmp_path / "taken", RAMP)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
