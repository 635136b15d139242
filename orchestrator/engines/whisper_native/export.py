"""The network as three ONNX graphs, with the decoder's cache as inputs and outputs.

``encoder``: features to each decoder layer's keys and values of the audio. ``step``: one token more for all
rows, given the keys and values so far. ``attention``: where the alignment heads look in a whole transcript.
Each layer's keys and values are tensors of their own, so that nothing is copied to pick them out. The past is
``[positions, rows, heads, head width]``: a shorter one is the beginning of the same memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from orchestrator.engines.checks import reason_of
from orchestrator.engines.whisper_native.checkpoint import WhisperShape
from orchestrator.engines.whisper_native.network import Decoder, KeyValue, Whisper
from orchestrator.errors import MissingDependencyError, ModelLoadError

ENCODER: Final = "encoder"
STEP: Final = "step"
ATTENTION: Final = "attention"
OPSET: Final = 17
"""The first with layer norms of their own."""
_EXAMPLE_ROWS: Final = 2
_EXAMPLE_TOKENS: Final = 5


@dataclass(frozen=True, slots=True)
class Names:
    """The tensors' names for a network of ``layers`` decoder layers, in the order of the graphs."""

    layers: int

    @property
    def audio(self) -> list[str]:
        """Keys and values of the audio, ``[rows, heads, encoder positions, head width]``."""
        return self._pairs("audio")

    @property
    def past(self) -> list[str]:
        """Keys and values so far."""
        return self._pairs("past")

    @property
    def added(self) -> list[str]:
        """Keys and values of the token that was read, ``[rows, heads, head width]``."""
        return self._pairs("added")

    def _pairs(self, kind: str) -> list[str]:
        return [f"{kind}.{layer}.{part}" for layer in range(self.layers) for part in ("key", "value")]


def pairs(tensors: Sequence[Tensor]) -> list[KeyValue]:
    """Keys and values in turns, as pairs."""
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def flat(layers: Sequence[KeyValue]) -> list[Tensor]:
    """The opposite of `pairs`."""
    return [tensor for pair in layers for tensor in pair]


class _EncoderGraph(nn.Module):
    def __init__(self, network: Whisper) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        network = self.network
        encoded = network.encoder(features.to(network.decoder.embed_tokens.weight.dtype))
        return tuple(flat(network.decoder.audio(encoded)))


class _StepGraph(nn.Module):
    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Tensor, position: Tensor, mask: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        half = len(rest) // 2
        dtype = self.decoder.embed_tokens.weight.dtype
        logits, added = self.decoder.grow(
            tokens, position, mask.to(dtype), pairs(rest[:half]), pairs(rest[half:])
        )
        return (logits, *flat(added))


class _AttentionGraph(nn.Module):
    def __init__(self, decoder: Decoder, heads: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.decoder = decoder
        self.heads = list(heads)

    def forward(self, tokens: Tensor, *audio: Tensor) -> Tensor:
        return self.decoder.attention(tokens, pairs(audio), self.heads)


def export(network: Whisper, heads: Sequence[tuple[int, int]], folder: Path) -> dict[str, Path]:
    """Write the graphs, in the network's precision; returns their files by name.

    Args:
        network: on the CPU, in evaluation mode.
        heads: the alignment heads; none: there is no graph ``attention``.
        folder: made where it is not there.

    Raises:
        MissingDependencyError: onnx is not installed.
        ModelLoadError: a graph cannot be exported or written.
    """
    shape = network.shape
    names = Names(shape.decoder_layers)
    dtype = network.decoder.embed_tokens.weight.dtype
    rows = _EXAMPLE_ROWS
    audio = [
        torch.zeros((rows, shape.decoder_heads, shape.encoder_positions, shape.head_width), dtype=dtype)
        for _ in names.audio
    ]
    past = [
        torch.zeros((_EXAMPLE_TOKENS, rows, shape.decoder_heads, shape.head_width), dtype=dtype)
        for _ in names.past
    ]
    tokens = torch.zeros(rows, dtype=torch.long)
    folder.mkdir(parents=True, exist_ok=True)
    by_row = {0: "rows"}
    files = {
        ENCODER: _write(
            _EncoderGraph(network),
            (torch.zeros((rows, shape.mels, shape.frames)),),
            folder / "encoder.onnx",
            ["features"],
            names.audio,
            dict.fromkeys(("features", *names.audio), by_row),
        ),
        STEP: _write(
            _StepGraph(network.decoder),
            (tokens, torch.tensor([3]), torch.zeros(_EXAMPLE_TOKENS + 1), *past, *audio),
            folder / "step.onnx",
            ["tokens", "position", "mask", *names.past, *names.audio],
            ["logits", *names.added],
            {
                **dict.fromkeys(("tokens", "logits", *names.added, *names.audio), by_row),
                **{name: {0: "past", 1: "rows"} for name in names.past},
                "mask": {0: "places"},
            },
        ),
    }
    if heads:
        files[ATTENTION] = _write(
            _AttentionGraph(network.decoder, heads),
            (torch.zeros((rows, _EXAMPLE_TOKENS), dtype=torch.long), *audio),
            folder / "attention.onnx",
            ["tokens", *names.audio],
            ["weights"],
            {
                **dict.fromkeys(names.audio, by_row),
                "tokens": {0: "rows", 1: "tokens"},
                "weights": {0: "rows", 2: "tokens"},
            },
        )
    return files


def _write(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: dict[str, dict[int, str]],
) -> Path:
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            # The exporter that traces needs no further package; torch would rather have the other one used.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph.eval(),
                example,
                str(path),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
    except ImportError as error:
        raise MissingDependencyError(
            f"the network cannot be exported: {error}", fix="run: pip install 'spark-speech[whisper-trt]'"
        ) from error
    except (RuntimeError, OSError, ValueError) as error:
        raise ModelLoadError(
            f"the network cannot be exported to {path.name}: {reason_of(error)}",
            fix="look whether the disk is full.",
            path=path,
        ) from error
    return path


def limits(shape: WhisperShape, rows: int) -> dict[str, dict[str, tuple[tuple[int, ...], ...]]]:
    """Smallest, usual and largest shape of each graph's inputs, for up to ``rows`` rows.

    A plan is made for this range, and is quickest at the usual shape: all rows, and half of the positions.
    """
    names = Names(shape.decoder_layers)
    positions = shape.decoder_positions
    usual = positions // 2
    audio = {
        name: tuple(
            (count, shape.decoder_heads, shape.encoder_positions, shape.head_width)
            for count in (1, rows, rows)
        )
        for name in names.audio
    }
    past = {
        name: tuple(
            (length, count, shape.decoder_heads, shape.head_width)
            for length, count in ((1, 1), (usual, rows), (positions, rows))
        )
        for name in names.past
    }
    return {
        ENCODER: {"features": tuple((count, shape.mels, shape.frames) for count in (1, rows, rows))},
        STEP: {
            "tokens": ((1,), (rows,), (rows,)),
            "position": ((1,), (1,), (1,)),
            "mask": ((2,), (usual + 1,), (positions + 1,)),
            **past,
            **audio,
        },
        ATTENTION: {"tokens": ((1, 1), (rows, usual), (rows, positions)), **audio},
    }
