from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import contract
from orchestrator.client import codec
from orchestrator.diarization.base import DiarizationOptions
from orchestrator.engines.base import RecognitionOptions


@given(st.lists(st.integers(-32_768, 32_767), min_size=1, max_size=50))
def test_sixteen_bit_recordings_travel_unchanged(values: list[int]) -> None:
    samples = np.array(values, np.int16).astype(np.float32) / 32_768
    assert codec.to_pcm16(samples).tolist() == values


@given(st.lists(st.floats(-16, 16, width=32), min_size=1, max_size=50))
def test_floats_are_rounded_to_the_nearest_step_and_cut_off_at_full_scale(values: list[float]) -> None:
    samples = np.array(values, np.float32)
    back = codec.to_pcm16(samples).astype(np.float64) / 32_768
    inside = np.clip(samples.astype(np.float64), -1, 32_767 / 32_768)
    assert np.abs(back - inside).max() <= 0.5 / 32_768


def test_the_samples_themselves_stay_what_they_are() -> None:
    samples = np.array([0.1, -2.0, 3.0], np.float32)
    codec.to_pcm16(samples)
    assert samples.tolist() == np.array([0.1, -2.0, 3.0], np.float32).tolist()


@pytest.mark.parametrize(("pcm16", "name", "width"), [(True, "PCM16", 2), (False, "AUDIO", 4)])
def test_a_request_carries_one_recording(pcm16: bool, name: str, width: int) -> None:
    samples = np.linspace(-1, 1, 1000, dtype=np.float32)
    request = codec.encode("m", "", samples, None, contract.RECOGNIZER, pcm16=pcm16)
    (tensor,) = request.inputs
    assert (tensor.name, list(tensor.shape)) == (name, [1, 1000])
    assert len(request.raw_input_contents[0]) == width * 1000
    assert request.ByteSize() <= codec.request_bytes(1000, pcm16=pcm16)


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (RecognitionOptions(), None),
        (RecognitionOptions(language="en"), b'{"language":"en"}'),
        (DiarizationOptions(num_speakers=2), b'{"num_speakers":2}'),
    ],
)
def test_options_at_their_defaults_are_left_out(
    options: RecognitionOptions | DiarizationOptions, sent: bytes | None
) -> None:
    request = codec.encode("m", "", np.zeros(1, np.float32), options, contract.RECOGNIZER)
    texts = dict(zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True))
    assert texts.get("OPTIONS") == (None if sent is None else len(sent).to_bytes(4, "little") + sent)
