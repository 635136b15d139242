"""How a network runs on its device: the two calls that the offline model and the streams share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from orchestrator.engines.fastconformer.heads import DecoderState, Tokens, TransducerHead
from orchestrator.engines.fastconformer.network import FastConformer

Precision = Literal["float32", "bfloat16"]


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
    ) -> None:
        """Take ``network``, which is on ``device``.

        Args:
            network: from `checkpoint`; its weights change their type to ``precision``.
            device: where to compute.
            precision: of the weights and the matrix products; sums, features and confidences stay float32.
            cuda_graphs: replay captured graphs where the device is CUDA.
        """
        self.network = network
        self.device = device
        self.dtype = getattr(torch, precision)
        network.encoder.to(self.dtype)
        network.head.to(self.dtype)
        self._graphs = cuda_graphs and device.type == "cuda"

    @torch.inference_mode()
    def encode(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder frames of a padded batch.

        Args:
            audio: float32 ``[B, N]`` at 16 kHz, on any device; anything after a recording's end.
            lengths: int64 ``[B]`` samples, on any device.

        Returns:
            ``[B, T, width]`` on the device, meaningless after each end, and int64 ``[B]`` frames.
        """
        audio, lengths = (part.to(self.device, non_blocking=True) for part in (audio, lengths))
        mel, frames = self.network.features(audio, lengths)
        encoded: tuple[Tensor, Tensor] = self.network.encoder(mel.to(self.dtype), frames)
        return encoded

    @torch.inference_mode()
    def decode(
        self, encoded: Tensor, frames: Tensor, state: DecoderState | None = None
    ) -> tuple[Tokens, DecoderState]:
        """Greedy transducer decoding, see `TransducerHead.decode`; only for networks with such a head."""
        head = self.network.head
        if not isinstance(head, TransducerHead):
            raise TypeError("the network has no transducer head")
        return head.decode(encoded, frames, state)

    def release(self) -> None:
        """Give memory that is not in use back to the device."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
