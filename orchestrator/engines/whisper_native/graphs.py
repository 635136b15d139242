"""A runtime over the ONNX graphs of `export`, whatever computes a graph: onnxruntime or TensorRT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import torch
from torch import Tensor

from orchestrator.engines.whisper_native.checkpoint import WhisperShape
from orchestrator.engines.whisper_native.export import ATTENTION, ENCODER, STEP, Names, flat, pairs
from orchestrator.engines.whisper_native.runtime import Audio
from orchestrator.errors import InferenceError

_BLOCK: Final = 64
"""The past that a step is given grows by this many positions at a time: few shapes, and little for
nothing."""


class Graph(Protocol):
    """One graph, ready to compute."""

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All outputs by name. Inputs are contiguous tensors on the graph's device.

        Raises:
            InferenceError: it failed.
        """

    def close(self) -> None:
        """Free its memory."""


class GraphRuntime:
    """See `runtime.Runtime`."""

    def __init__(
        self, shape: WhisperShape, graphs: Mapping[str, Graph], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.shape = shape
        self.names = Names(shape.decoder_layers)
        self.device = device
        self.dtype = dtype
        self._graphs = dict(graphs)

    def encode(self, features: Tensor) -> Audio:
        """See `runtime.Runtime.encode`."""
        found = self._graphs[ENCODER].run({"features": features.to(self.device).contiguous()})
        return pairs([found[name] for name in self.names.audio])

    def begin(self, audio: Audio) -> GraphSteps:
        """See `runtime.Runtime.begin`."""
        return GraphSteps(self, self._graphs[STEP], audio)

    def attention(self, tokens: Tensor, audio: Audio) -> Tensor:
        """See `runtime.Runtime.attention`."""
        heard = dict(zip(self.names.audio, flat(audio), strict=True))
        found = self._graphs[ATTENTION].run({"tokens": tokens.to(self.device).contiguous(), **heard})
        return found["weights"].float()

    def close(self) -> None:
        """See `runtime.Runtime.close`."""
        for graph in self._graphs.values():
            graph.close()


class GraphSteps:
    """See `runtime.Steps`: the cache is kept here, and given to each step as far as it is filled."""

    def __init__(self, runtime: GraphRuntime, graph: Graph, audio: Audio) -> None:
        shape, rows = runtime.shape, audio[0][0].shape[0]
        self._runtime = runtime
        self._graph = graph
        self._audio = dict(zip(runtime.names.audio, flat(audio), strict=True))
        self._past = [
            torch.zeros(
                (shape.decoder_positions, rows, shape.decoder_heads, shape.head_width),
                dtype=runtime.dtype,
                device=runtime.device,
            )
            for _ in runtime.names.past
        ]
        self._position = 0

    @torch.inference_mode()
    def __call__(self, tokens: Tensor) -> Tensor:
        """See `runtime.Steps`."""
        runtime, position = self._runtime, self._position
        most = runtime.shape.decoder_positions
        if position >= most:
            raise InferenceError(f"The decoder takes {most} tokens.", fix="ask for fewer tokens.")
        length = min(most, -(-max(position, 1) // _BLOCK) * _BLOCK)
        mask = torch.full((length + 1,), float("-inf"), device=runtime.device)
        mask[:position] = 0.0
        mask[-1] = 0.0
        found = self._graph.run(
            {
                "tokens": tokens.to(runtime.device).contiguous(),
                "position": torch.tensor([position], device=runtime.device),
                "mask": mask,
                **{name: past[:length] for name, past in zip(runtime.names.past, self._past, strict=True)},
                **self._audio,
            }
        )
        for past, name in zip(self._past, runtime.names.added, strict=True):
            past[position] = found[name]
        self._position += 1
        return found["logits"]

    @torch.inference_mode()
    def reorder(self, rows: Tensor) -> None:
        """See `runtime.Steps`."""
        for past in self._past:
            past[: self._position] = past[: self._position].index_select(1, rows.to(past.device))
