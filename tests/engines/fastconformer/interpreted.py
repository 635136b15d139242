"""Compares the fused kernels with the plain modules, in a process whose Triton interprets its language."""

from __future__ import annotations

import os

import torch

from orchestrator.engines.fastconformer.config import EncoderConfig, HeadConfig
from orchestrator.engines.fastconformer.encoder import Encoder
from orchestrator.engines.fastconformer.heads import TransducerHead


def prepare() -> None:
    """Before Triton is imported: its functions become the interpreter's, or a GPU's, as they are read."""
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)
    from triton.runtime import interpreter

    standard = interpreter._patch_lang_tensor

    def with_scalars(tensor: type, scope: object) -> None:
        # NumPy 2.4 no longer takes an array of one element for a number.
        standard(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))  # type: ignore[attr-defined]

    interpreter._patch_lang_tensor = with_scalars


def compare_encoders(subsampling: int, bias: bool, scaled: bool, heads: int, width: int, kernel: int) -> None:
    from orchestrator.engines.fastconformer.fused.encoder import FusedEncoder

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
        found, found_lengths = FusedEncoder(encoder)(mel, frames)
    assert found_lengths.tolist() == lengths.tolist()
    assert torch.isfinite(found).all()
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(found[row, :length], expected[row, :length], atol=3e-6, rtol=0)


def compare_decoding(kind: str, durations: tuple[int, ...], activation: str) -> None:
    from orchestrator.engines.fastconformer.fused.loop import FusedLoop

    torch.manual_seed(3)
    config = HeadConfig(kind, 20, durations, 12, 2, 18, activation, 3)  # type: ignore[arg-type]
    head = TransducerHead(16, config).eval().requires_grad_(False)
    head.embedding.weight[20] = 0
    head.out.weight.mul_(6)
    encoded = torch.randn(3, 9, 16) * 2
    expected_state, state = head.initial_state(3), head.initial_state(3)
    loop = FusedLoop(head, 4, 6)  # one row and some frames more than needed
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
