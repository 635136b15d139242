"""How a network runs on its device: the two calls that the offline model and the streams share.

On CUDA the encoder and the decoder go through fused kernels, and small batches replay captured graphs. Where
the kernels cannot be compiled, or a graph fails, the same computation goes on without them, and a warning
says so once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeVar

import torch
from torch import Tensor

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.checks import reason_of
from orchestrator.engines.fastconformer.encoder import Encoder
from orchestrator.engines.fastconformer.graphs import DecodeGraph, EncodeGraph, GraphPool, Loop
from orchestrator.engines.fastconformer.heads import DecoderState, GreedyLoop, Tokens, TransducerHead
from orchestrator.engines.fastconformer.network import FastConformer

Precision = Literal["float32", "bfloat16"]
Result = TypeVar("Result")

MAX_GRAPHS: Final = 24
"""Of each kind."""
GRAPHED_AUDIO_S: Final = 400.0
"""Batches of more padded audio than this keep the device busy without a graph."""
GRAPHED_LENGTHS_S: Final = (1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0)
"""Audio lengths that encoder graphs are captured for; a batch uses the next longer one."""
_LONG_FRAMES: Final = 16
"""Chunks of more encoder frames than this are decoded with more steps a replay, and in larger buckets."""

_LOG: Final = logging.getLogger(__name__)


class Compute:
    """Encoder and decoder of one network. Not thread-safe.

    What a call returns may be overwritten by the next call of the same method: copy what has to last.
    """

    def __init__(
        self,
        network: FastConformer,
        device: torch.device,
        *,
        precision: Precision = "float32",
        cuda_graphs: bool = False,
        window_samples: int | None = None,
    ) -> None:
        """Take ``network``, which is on ``device``.

        Args:
            network: from `checkpoint`; its weights change their type to ``precision``.
            device: where to compute.
            precision: of the weights and the matrix products; sums, features and confidences stay float32.
            cuda_graphs: replay captured graphs where the device is CUDA.
            window_samples: the length of all batches, where they are all of one length.
        """
        self.network = network
        self.device = device
        self.dtype = getattr(torch, precision)
        network.encoder.to(self.dtype)
        network.head.to(self.dtype)
        self._encoder: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = network.encoder
        self._loop: Callable[[TransducerHead, int, int], Loop] = GreedyLoop
        self._fused = device.type == "cuda" and self._take_kernels()
        self._graphs = cuda_graphs and device.type == "cuda"
        self._lengths: Sequence[int] = (
            [int(seconds * SAMPLE_RATE_HZ) for seconds in GRAPHED_LENGTHS_S]
            if window_samples is None
            else [window_samples]
        )
        self._memory: Any = torch.cuda.graph_pool_handle() if self._graphs else None
        self._encode_graphs: GraphPool[EncodeGraph] = GraphPool(MAX_GRAPHS)
        self._decode_graphs: GraphPool[DecodeGraph] = GraphPool(MAX_GRAPHS)
        self._start: DecoderState | None = None

    def _take_kernels(self) -> bool:
        encoder = self.network.encoder
        if not isinstance(encoder, Encoder):
            return False
        try:
            # They need the compiler that comes with torch's CUDA builds.
            from orchestrator.engines.fastconformer.fused.encoder import FusedEncoder
            from orchestrator.engines.fastconformer.fused.loop import FusedLoop
        except ImportError as error:
            _LOG.warning("fused kernels cannot be used, going on without: %s", error)
            return False
        self._encoder, self._loop = FusedEncoder(encoder), FusedLoop
        return True

    @torch.inference_mode()
    def encode(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder frames of a padded batch.

        Args:
            audio: float32 ``[B, N]`` at 16 kHz, on any device; anything after a recording's end.
            lengths: int64 ``[B]`` samples, on any device.

        Returns:
            ``[B, T, width]`` on the device, meaningless after each end, and int64 ``[B]`` frames.
        """
        return self._surely(lambda: self._encode(audio, lengths))

    def _encode(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        rows, samples = _next_size(audio.shape[0]), audio.shape[1]
        longer = next((length for length in self._lengths if length >= samples), None)
        if self._graphs and longer is not None and rows * longer <= GRAPHED_AUDIO_S * SAMPLE_RATE_HZ:
            graph = self._encode_graphs.get(
                (rows, longer),
                lambda: EncodeGraph(self._encode_now, rows, longer, self.device, self._memory),
            )
            return graph(audio, lengths)
        audio, lengths = (part.to(self.device, non_blocking=True) for part in (audio, lengths))
        return self._encode_now(audio, lengths)

    def _encode_now(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        mel, frames = self.network.features(audio, lengths)
        return self._encoder(mel.to(self.dtype), frames)

    @torch.inference_mode()
    def decode(
        self, encoded: Tensor, frames: Tensor, state: DecoderState | None = None
    ) -> tuple[Tokens, DecoderState]:
        """Greedy transducer decoding, see `TransducerHead.decode`; only for networks with such a head."""
        head = self.network.head
        if not isinstance(head, TransducerHead):
            raise TypeError("the network has no transducer head")
        return self._surely(lambda: self._decode(head, encoded, frames, state))

    def _decode(
        self, head: TransducerHead, encoded: Tensor, frames: Tensor, state: DecoderState | None
    ) -> tuple[Tokens, DecoderState]:
        if not self._fused:
            return head.decode(encoded, frames, state)
        batch, time, _ = encoded.shape
        if state is None:
            if self._start is None:
                self._start = head.initial_state(1)
            state = self._start
        if not self._graphs:
            loop = self._loop(head, batch, time)
            loop.begin(encoded, frames, state)
            while loop.unfinished():
                loop.step()
            return loop.tokens(), loop.state()
        # Idle rows and frames cost decoding little: few shapes serve all batches.
        bucket, steps = (128, 16) if time > _LONG_FRAMES else (_LONG_FRAMES, 4)
        shape = (_power_of_two(batch), -(-time // bucket) * bucket)
        graph = self._decode_graphs.get(
            shape, lambda: DecodeGraph(self._loop(head, *shape), steps, self._memory)
        )
        tokens, after = graph(encoded, frames, state)
        return Tokens(tokens.table[:batch], tokens.count[:batch]), _first_rows(after, batch)

    def release(self) -> None:
        """Give memory that is not in use back to the device; graphs are captured again when needed."""
        self._encode_graphs.clear()
        self._decode_graphs.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _surely(self, work: Callable[[], Result]) -> Result:
        """``work``; where a graph or a kernel fails, once more without."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError:
                raise
            except _failures() as error:
                if self._graphs:
                    self._graphs, what = False, "CUDA graphs"
                elif self._fused:
                    self._fused, what = False, "fused kernels"
                    self._encoder, self._loop = self.network.encoder, GreedyLoop
                else:
                    raise
                reason = reason_of(error)
            _LOG.warning("%s failed, going on without: %s", what, reason)
            self.release()


def _failures() -> tuple[type[BaseException], ...]:
    """What a graph or a kernel raises when it cannot run."""
    try:
        from triton.errors import TritonError
    except ImportError:
        return (RuntimeError,)
    failures: tuple[Any, ...] = (RuntimeError, TritonError)
    return failures


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()


def _next_size(count: int) -> int:
    """The next larger of 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: at most a third of a pass is idle rows."""
    size = _power_of_two(count)
    return size * 3 // 4 if size >= 4 and count <= size * 3 // 4 else size


def _first_rows(state: DecoderState, batch: int) -> DecoderState:
    return DecoderState(
        state.hidden[:, :batch], state.cell[:, :batch], state.predicted[:batch], state.skip[:batch]
    )
