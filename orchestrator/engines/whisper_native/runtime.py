"""What computes a Whisper network: the interface that decoding and recognition are written against."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from orchestrator.engines.whisper_native.checkpoint import WhisperShape
from orchestrator.engines.whisper_native.network import KeyValue

Audio = list[KeyValue]
"""Encoded windows: keys and values of each decoder layer, ``[rows, heads, encoder positions, head
width]``."""


class Steps(Protocol):
    """The decoder under way on some rows, one token after the other."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """float32 logits ``[rows, vocabulary]`` after one more token, int64 ``[rows]``, for each row.

        What is returned may be overwritten by the next call.

        Raises:
            InferenceError: the decoder takes no more tokens.
        """

    def reorder(self, rows: Tensor) -> None:
        """Each row goes on from what ``rows``, int64 ``[rows]``, have read so far. For beams of one window:
        a row is only ever replaced by one with the same audio."""


class Runtime(Protocol):
    """Not thread-safe; tensors are taken from any device and returned on the runtime's own."""

    shape: WhisperShape

    def encode(self, features: Tensor) -> Audio:
        """Encode float32 features ``[rows, mels, frames]``."""

    def begin(self, audio: Audio) -> Steps:
        """Start the decoder on all rows of ``audio``, at most what the runtime was set up for; what an
        earlier call returned is of no use afterwards."""

    def attention(self, tokens: Tensor, audio: Audio) -> Tensor:
        """Where the alignment heads look: see `network.Decoder.attention`."""

    def close(self) -> None:
        """Free the device's memory."""


def rows_of(audio: Audio, rows: Tensor) -> Audio:
    """Some rows of encoded windows, in the order of ``rows``, which may repeat."""
    return [(key.index_select(0, rows), value.index_select(0, rows)) for key, value in audio]
