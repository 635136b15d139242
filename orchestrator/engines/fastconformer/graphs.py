"""CUDA graphs: a whole encoder pass, or several decoding steps, launched as one.

A small batch spends most of its time launching kernels; a graph replays them at once, at fixed shapes and
fixed addresses. Inputs are copied into tensors of the graph's own, so a batch uses the next larger shape.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from orchestrator.engines.fastconformer.heads import DecoderState, Tokens

WARM_UPS: Final = 2
"""Runs before a capture: libraries choose their kernels and take their workspaces outside of the graph."""

Graph = TypeVar("Graph")
Encode = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Loop(Protocol):
    """What `heads.GreedyLoop` and `fused.loop.FusedLoop` have in common."""

    def begin(self, encoded: Tensor, lengths: Tensor, state: DecoderState) -> None:
        """Start on a chunk."""

    def step(self) -> None:
        """Move on."""

    def unfinished(self) -> bool:
        """Whether any recording has frames left."""

    def tokens(self) -> Tokens:
        """What was found."""

    def state(self) -> DecoderState:
        """What the next chunk needs."""


class GraphPool(Generic[Graph]):
    """Graphs by shape, at most ``size``; the one unused for longest goes first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._graphs: OrderedDict[Hashable, Graph] = OrderedDict()

    def get(self, shape: Hashable, make: Callable[[], Graph]) -> Graph:
        """The graph for ``shape``, made where there is none."""
        graph = self._graphs.get(shape)
        if graph is None:
            graph = self._graphs[shape] = make()
            if len(self._graphs) > self._size:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(shape)
        return graph

    def clear(self) -> None:
        """Drop all of them, and their memory."""
        self._graphs.clear()


class EncodeGraph:
    """An encoder pass for up to ``batch`` recordings of up to ``samples`` samples."""

    def __init__(self, encode: Encode, batch: int, samples: int, device: torch.device, memory: Any) -> None:
        self._audio = torch.zeros((batch, samples), device=device)
        self._lengths = torch.full((batch,), samples, dtype=torch.long, device=device)
        self._encoded: Tensor
        self._frames: Tensor

        def work() -> None:
            self._encoded, self._frames = encode(self._audio, self._lengths)

        self._graph = captured(work, memory)

    def __call__(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode ``[b, n]`` audio; the result is overwritten by the next call."""
        batch, samples = audio.shape
        self._audio[:batch, :samples].copy_(audio, non_blocking=True)
        self._lengths.zero_()
        self._lengths[:batch].copy_(lengths, non_blocking=True)
        self._graph.replay()
        return self._encoded[:batch], self._frames[:batch]


class DecodeGraph:
    """Greedy decoding with ``steps`` steps of ``loop`` a replay: the host looks once after that many."""

    def __init__(self, loop: Loop, steps: int, memory: Any) -> None:
        self._loop = loop

        def work() -> None:
            for _ in range(steps):
                loop.step()

        self._graph = captured(work, memory)

    def __call__(self, encoded: Tensor, lengths: Tensor, state: DecoderState) -> tuple[Tokens, DecoderState]:
        """As `TransducerHead.decode`; the result is overwritten by the next call."""
        self._loop.begin(encoded, lengths, state)
        while self._loop.unfinished():
            self._graph.replay()
        return self._loop.tokens(), self._loop.state()


def captured(work: Callable[[], None], memory: Any) -> torch.cuda.CUDAGraph:
    """``work`` as a graph; it must only touch tensors that stay where they are.

    All graphs take their intermediate tensors from one pool: they never run at the same time.
    """
    stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads may prepare their requests meanwhile, and take memory for them.
    with torch.cuda.graph(graph, pool=memory, stream=stream, capture_error_mode="thread_local"):
        work()
    return graph
