"""Greedy transducer decoding through fused kernels: eight launches a step instead of some forty."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.engines.fastconformer.heads import DecoderState, Tokens, TransducerHead
from orchestrator.engines.fastconformer.kernels import decoder as kernels


class FusedLoop:
    """As `heads.GreedyLoop`, step for step."""

    def __init__(self, head: TransducerHead, batch: int, time: int) -> None:
        config, weight = head.config, head.out.weight
        device, dtype = weight.device, weight.dtype
        hidden = config.prediction_width
        self._head = head
        self._layers = [(layer.weight.t(), layer.bias) for layer in _linear(head.recurrent)]
        # A product whose rows begin at multiples of 16 bytes is much faster.
        self._out_weight = F.pad(weight, (0, 0, 0, -len(weight) % 8)).t()
        self._projected = torch.zeros((batch, time, config.joint_width), dtype=dtype, device=device)
        self._predicted = torch.zeros((batch, config.joint_width), dtype=dtype, device=device)
        self._joined = torch.zeros_like(self._predicted)
        self._lengths = torch.zeros(batch, dtype=torch.long, device=device)
        self._time = torch.zeros_like(self._lengths)
        self._count = torch.zeros_like(self._lengths)
        self._at_frame = torch.zeros_like(self._lengths)
        self._emitted = torch.zeros(batch, dtype=torch.int32, device=device)
        # A row holds what a layer is fed and its hidden state, which is what its weights multiply.
        self._inputs = torch.zeros((config.prediction_layers, batch, 2 * hidden), dtype=dtype, device=device)
        self._cell = torch.zeros(
            (config.prediction_layers, batch, hidden), dtype=torch.float32, device=device
        )
        columns = time * config.max_symbols + 1
        self._found = torch.zeros((batch, columns, 4), dtype=torch.int32, device=device)

    def begin(self, encoded: Tensor, lengths: Tensor, state: DecoderState) -> None:
        """Start on ``encoded`` ``[b, t, width]``, no larger than the loop; rows beyond ``b`` stay idle."""
        batch, time, _ = encoded.shape
        hidden = self._head.config.prediction_width
        self._projected[:batch, :time].copy_(self._head.project_encoder(encoded))
        self._lengths.zero_()
        self._lengths[:batch].copy_(lengths)
        self._time.zero_()
        self._time[:batch].copy_(state.skip)
        self._predicted[:batch].copy_(state.predicted)
        self._inputs[:, :batch, hidden:].copy_(state.hidden)
        self._cell[:, :batch].copy_(state.cell)
        self._count.zero_()
        self._at_frame.zero_()

    def unfinished(self) -> bool:
        """Whether any recording has frames left (waits for the device)."""
        return bool((self._time < self._lengths).any())

    def step(self) -> None:
        """Evaluate the joint once for every recording and move on."""
        head, config = self._head, self._head.config
        kernels.joint_input(
            self._projected, self._predicted, self._time, self._lengths, config.activation, self._joined
        )
        kernels.choose(
            _product(self._joined, self._out_weight),
            head.out.bias,
            head.durations,
            (self._time, self._lengths, self._count, self._at_frame),
            config.max_symbols,
            self._found,
            self._emitted,
            head.embedding.weight,
            self._inputs[0],
        )
        for index, (weight, bias) in enumerate(self._layers):
            inputs = self._inputs[index]
            following = self._inputs[index + 1] if index + 1 < len(self._layers) else None
            kernels.lstm_cell(
                _product(inputs, weight), bias, self._cell[index], self._emitted, inputs, following
            )
        # Where no token was found the hidden state is the old one, and so is what follows from it.
        layer = head.project_prediction
        hidden = self._inputs[-1][:, config.prediction_width :]
        torch.addmm(layer.bias, hidden, layer.weight.t(), out=self._predicted)

    def tokens(self) -> Tokens:
        """What was found so far."""
        longest = int(self._count.max()) if len(self._count) else 0
        return Tokens(self._found[:, :longest], self._count)

    def state(self) -> DecoderState:
        """What the next chunk needs."""
        hidden = self._inputs[:, :, self._head.config.prediction_width :]
        skip = (self._time - self._lengths).clamp(min=0)
        return DecoderState(hidden, self._cell, self._predicted, skip)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product, in float32 whatever the inputs are."""
    if a.dtype == torch.float32 or a.device.type == "cpu":
        return torch.mm(a, b)
    return torch.mm(a, b, out_dtype=torch.float32)


def _linear(layers: torch.nn.ModuleList) -> list[torch.nn.Linear]:
    return [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
