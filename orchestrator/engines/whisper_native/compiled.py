"""torch computes the network: layers compiled once, a cache of fixed size, and CUDA graphs over whole steps.

One encoder layer and one decoder layer are compiled, not the network: all layers share the code, so that a
cold start compiles two small graphs for each batch size and a warm one loads two. What a step of the decoder
then still costs, launching hundreds of kernels, a CUDA graph takes away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from orchestrator.engines.checks import reason_of
from orchestrator.engines.fastconformer.graphs import GraphPool, captured
from orchestrator.engines.whisper_native.checkpoint import WhisperShape
from orchestrator.engines.whisper_native.network import DecoderLayer, EncoderLayer, KeyValue, Step, Whisper
from orchestrator.engines.whisper_native.runtime import Audio
from orchestrator.errors import InferenceError

Result = TypeVar("Result")
_GRAPHS: Final = 4
"""Batch sizes that are kept at once; each has caches of its own."""

_LOG: Final = logging.getLogger(__name__)


class TorchRuntime:
    """See `runtime.Runtime`."""

    def __init__(
        self,
        network: Whisper,
        device: torch.device,
        *,
        heads: tuple[tuple[int, int], ...],
        compiled: bool = False,
        cuda_graphs: bool = False,
        least_rows: int = 1,
    ) -> None:
        """Take ``network``, which is on ``device`` with the weights and the precision it is to have.

        Args:
            network: in evaluation mode.
            device: where to compute.
            heads: see `tokens.WhisperTokens.alignment_heads`.
            compiled: compile layers with torch.compile.
            cuda_graphs: replay captured graphs where the device is CUDA.
            least_rows: rows of the decoder's smallest step; less are filled up.
        """
        self.shape: WhisperShape = network.shape
        self.compiled = compiled
        self._network = network
        self._device = device
        self._dtype = network.decoder.embed_tokens.weight.dtype
        self._heads = heads
        self._least = least_rows
        self._encoder_layer: Callable[[EncoderLayer, Tensor], Tensor] | None = None
        self._step: Step = DecoderLayer.step
        if compiled:
            self._encoder_layer = torch.compile(EncoderLayer.forward, fullgraph=True, dynamic=False)
            self._step = torch.compile(DecoderLayer.step, fullgraph=True, dynamic=False)
        self._graphs = cuda_graphs and device.type == "cuda"
        self._memory: Any = torch.cuda.graph_pool_handle() if self._graphs else None
        self._caches: GraphPool[_Cache] = GraphPool(_GRAPHS)

    @torch.inference_mode()
    def encode(self, features: Tensor) -> Audio:
        """See `runtime.Runtime.encode`."""
        rows = features.shape[0]
        padded = _filled(features.to(self._device, self._dtype), self._size(rows))

        def work() -> Audio:
            encoded = self._network.encoder(padded, self._encoder_layer)[:rows]
            return self._network.decoder.audio(encoded)

        return self._surely(work)

    @torch.inference_mode()
    def begin(self, audio: Audio) -> TorchSteps:
        """See `runtime.Runtime.begin`."""
        size = self._size(max(audio[0][0].shape[0], self._least))
        cache = self._caches.get(size, lambda: _Cache(self.shape, size, self._device, self._dtype))
        cache.begin(audio)
        return TorchSteps(self, cache, audio[0][0].shape[0])

    @torch.inference_mode()
    def attention(self, tokens: Tensor, audio: Audio) -> Tensor:
        """See `runtime.Runtime.attention`."""
        return self._network.decoder.attention(tokens.to(self._device), audio, self._heads)

    def close(self) -> None:
        """See `runtime.Runtime.close`."""
        self._caches.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def advance(self, cache: _Cache) -> Tensor:
        """One step of the decoder on ``cache``."""
        return self._surely(lambda: self._advance(cache))

    def _advance(self, cache: _Cache) -> Tensor:
        if not self._graphs:
            return self._step_on(cache)
        if cache.graph is None:

            def work() -> None:
                cache.logits = self._step_on(cache)

            cache.graph = captured(work, self._memory)
        cache.graph.replay()
        return cache.logits

    def _step_on(self, cache: _Cache) -> Tensor:
        return self._network.decoder.step(cache.tokens, cache.position, cache.own, cache.audio, self._step)

    def _size(self, rows: int) -> int:
        """Rows that are computed for ``rows``: a power of two where each size costs a compilation or a
        capture."""
        if not (self.compiled or self._graphs):
            return rows
        return 1 << max(rows - 1, 0).bit_length()

    def _surely(self, work: Callable[[], Result]) -> Result:
        """``work``; where a graph or compiled code fails, once more without."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                raise _failed(error) from error
            except _failures() as error:
                if self._graphs:
                    self._graphs, what = False, "CUDA graphs"
                elif self.compiled:
                    self.compiled, what = False, "torch.compile"
                    self._encoder_layer, self._step = None, DecoderLayer.step
                else:
                    raise _failed(error) from error
                _LOG.warning("%s failed, going on without: %s", what, reason_of(error))


class _Cache:
    """What a step of the decoder reads and writes, at fixed addresses, for ``size`` rows."""

    def __init__(self, shape: WhisperShape, size: int, device: torch.device, dtype: torch.dtype) -> None:
        def pairs(positions: int) -> list[KeyValue]:
            place = (size, shape.decoder_heads, positions, shape.head_width)
            return [
                (
                    torch.zeros(place, device=device, dtype=dtype),
                    torch.zeros(place, device=device, dtype=dtype),
                )
                for _ in range(shape.decoder_layers)
            ]

        self.tokens = torch.zeros(size, dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.own = pairs(shape.decoder_positions)
        self.audio = pairs(shape.encoder_positions)
        self.logits = torch.empty(0)
        self.graph: torch.cuda.CUDAGraph | None = None

    def begin(self, audio: Audio) -> None:
        """Take the audio of a new batch."""
        self.position.zero_()
        for mine, theirs in zip(self.audio, audio, strict=True):
            for target, source in zip(mine, theirs, strict=True):
                target[: source.shape[0]].copy_(source)


class TorchSteps:
    """See `runtime.Steps`."""

    def __init__(self, runtime: TorchRuntime, cache: _Cache, rows: int) -> None:
        self._runtime = runtime
        self._cache = cache
        self._rows = rows
        self._position = 0
        self._most = runtime.shape.decoder_positions

    @torch.inference_mode()
    def __call__(self, tokens: Tensor) -> Tensor:
        """See `runtime.Steps`."""
        if self._position >= self._most:
            raise InferenceError(f"The decoder takes {self._most} tokens.", fix="ask for fewer tokens.")
        self._cache.tokens[: self._rows].copy_(tokens)
        logits = self._runtime.advance(self._cache)
        self._position += 1
        self._cache.position.add_(1)
        return logits[: self._rows]

    @torch.inference_mode()
    def reorder(self, rows: Tensor) -> None:
        """See `runtime.Steps`."""
        for pair in self._cache.own:
            for cache in pair:
                cache[: self._rows, :, : self._position] = cache[rows, :, : self._position]


def _filled(features: Tensor, size: int) -> Tensor:
    """With rows of zeros up to ``size``."""
    rows = features.shape[0]
    if rows == size:
        return features
    return torch.cat((features, features.new_zeros((size - rows, *features.shape[1:]))))


def _failures() -> tuple[type[BaseException], ...]:
    """What a graph, a compiler or compiled code raises: missing compilers, full disks, and more batch sizes
    than torch compiles a function for among it. Looked at where something was raised: the imports take
    seconds."""
    from torch._dynamo.exc import FailOnRecompileLimitHit

    found: tuple[Any, ...] = (RuntimeError, ImportError, OSError, FailOnRecompileLimitHit)
    try:
        from triton.errors import TritonError
    except ImportError:
        return found
    return (*found, TritonError)


def _failed(error: BaseException) -> InferenceError:
    return InferenceError(
        f"Whisper failed: {reason_of(error)}",
        fix="lower max_batch where memory is short; else look at the server's log.",
    )
