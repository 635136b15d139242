from __future__ import annotations

import itertools
import wave
from pathlib import Path

import numpy as np

from orchestrator.bench.throughput.clips import batch, clips, material, write_wav


def test_clips_have_their_length_and_begin_unlike_one_another() -> None:
    sound = material(noise=False)
    pieces = clips(sound, 3.0)
    assert {len(piece) for piece in pieces} == {48_000}
    assert all(not np.array_equal(one, two) for one, two in itertools.combinations(pieces, 2))
    assert len(batch(pieces, 40)) == 40


def test_a_short_sound_is_repeated() -> None:
    sound = np.arange(100, dtype=np.int16)
    assert [len(piece) for piece in clips(sound, 1.0)][:1] == [16_000]


def test_a_long_recording_is_a_16_bit_wav(tmp_path: Path) -> None:
    sound = np.arange(-50, 50, dtype=np.int16)
    write_wav(tmp_path / "long.wav", sound, 2.0)
    with wave.open(str(tmp_path / "long.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16_000, 1, 32_000)
        assert np.frombuffer(file.readframes(200), "<i2").tolist() == [*sound.tolist()] * 2
