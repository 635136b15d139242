"""The fused kernels compute what the plain modules compute; here in the interpreter of Triton's language."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from orchestrator.engines.fastconformer.config import EncoderConfig, HeadConfig
from orchestrator.engines.fastconformer.encoder import Encoder
from orchestrator.engines.fastconformer.heads import TransducerHead

_PACKAGE = "orchestrator.engines.fastconformer"


@pytest.fixture(scope="module")
def fused() -> Iterator[tuple[ModuleType, ModuleType]]:
    """The fused encoder and loop, their kernels interpreted: that choice is made when they are imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for name in [name for name in sys.modules if name.startswith((f"{_PACKAGE}.fused", f"{_PACKAGE}.k"))]:
            patch.delitem(sys.modules, name)
        interpreter = importlib.import_module("triton.runtime.interpreter")
        standard = interpreter._patch_lang_tensor

        def with_scalars(tensor: type, scope: object) -> None:
            # NumPy 2.4 no longer takes an array of one element for a number.
            standard(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))  # type: ignore[attr-defined]

        patch.setattr(interpreter, "_patch_lang_tensor", with_scalars)
        yield (
            importlib.import_module(f"{_PACKAGE}.fused.encoder"),
            importlib.import_module(f"{_PACKAGE}.fused.loop"),
        )
        for name in [name for name in sys.modules if name.startswith((f"{_PACKAGE}.fused", f"{_PACKAGE}.k"))]:
            patch.delitem(sys.modules, name)


@pytest.mark.parametrize(
    ("subsampling", "bias", "scaled", "heads", "width", "kernel"),
    [(8, True, False, 2, 48, 9), (4, False, True, 4, 64, 15)],
)
def test_encoder_equals_the_plain_one(
    fused: tuple[ModuleType, ModuleType],
    subsampling: int,
    bias: bool,
    scaled: bool,
    heads: int,
    width: int,
    kernel: int,
) -> None:
    torch.manual_seed(0)
    config = EncoderConfig(2, width, heads, 2 * width, kernel, subsampling, 24, bias, scaled)
    encoder = Encoder(20, config).eval().requires_grad_(False)
    for name, parameter in encoder.named_parameters():
        if parameter.ndim == 1 or name.endswith(("content_bias", "position_bias")):
            parameter.add_(torch.randn_like(parameter) * 0.3)
    frames = torch.tensor([90, 0, 57])
    mel = torch.randn(3, 20, 90) * (torch.arange(90) < frames[:, None])[:, None]
    with torch.inference_mode():
        expected, lengths = encoder(mel, frames)
        found, found_lengths = fused[0].FusedEncoder(encoder)(mel, frames)
    assert found_lengths.tolist() == lengths.tolist()
    assert torch.isfinite(found).all()
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(found[row, :length], expected[row, :length], atol=3e-6, rtol=0)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize(("kind", "durations"), [("tdt", (0, 1, 2, 3, 4)), ("rnnt", ())])
def test_decoding_equals_the_plain_loop_over_two_chunks(
    fused: tuple[ModuleType, ModuleType], kind: str, durations: tuple[int, ...], activation: str
) -> None:
    torch.manual_seed(3)
    config = HeadConfig(kind, 20, durations, 12, 2, 18, activation, 3)  # type: ignore[arg-type]
    head = TransducerHead(16, config).eval().requires_grad_(False)
    head.embedding.weight[20] = 0
    head.out.weight.mul_(6)
    encoded = torch.randn(3, 9, 16) * 2
    expected_state, state = head.initial_state(3), head.initial_state(3)
    loop = fused[1].FusedLoop(head, 4, 6)  # one row and some frames more than needed
    for chunk, lengths in ((encoded[:, :5], [5, 0, 4]), (encoded[:, 5:], [4, 4, 3])):
        frames = torch.tensor(lengths)
        with torch.inference_mode():
            expected, expected_state = head.decode(chunk, frames, expected_state)
            loop.begin(chunk, frames, state)
            while loop.unfinished():
                loop.step()
        found, state = loop.tokens(), loop.state()
        assert int(expected.count.sum()) > 0
        assert found.count[:3].tolist() == expected.count.tolist()
        kept = torch.arange(expected.table.shape[1]) < expected.count[:, None]
        assert torch.equal(found.table[:3, :, :3][kept], expected.table[..., :3][kept])
        torch.testing.assert_close(found.confidence[:3][kept], expected.confidence[kept], atol=1e-5, rtol=0)
        state.hidden, state.cell = state.hidden[:, :3].clone(), state.cell[:, :3].clone()
        state.predicted, state.skip = state.predicted[:3].clone(), state.skip[:3].clone()
        for part in ("hidden", "cell", "predicted", "skip"):
            torch.testing.assert_close(
                getattr(state, part), getattr(expected_state, part), atol=1e-5, rtol=1e-5
            )
