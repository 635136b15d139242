"""From encoder frames to tokens: CTC labels, and greedy RNNT and TDT decoding of a batch with carried state.

RNNT (Graves 2012) and TDT (Xu et al. 2023, "Efficient Sequence Transduction by Jointly Predicting Tokens and
Durations") share one loop: every step evaluates the joint once for every recording, at that recording's own
frame. A blank moves on by its duration, at least one frame; a token is recorded, fed to the prediction
network, and moves on by its duration, which may be zero. After ``max_symbols`` tokens at one frame the
decoder moves on by itself. RNNT is TDT with duration 1 for blank and 0 for tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from orchestrator.engines.fastconformer.config import HeadConfig


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a batch said, as tokens; row ``b`` holds ``count[b]`` of them.

    Attributes:
        table: int32 ``[B, U, 4]``: see the properties; the confidence's 32 bits are kept as they are, so that
            all goes to the host in one transfer.
        count: int64 ``[B]``.
    """

    table: Tensor
    count: Tensor

    @property
    def ids(self) -> Tensor:
        """int32 ``[B, U]``."""
        return self.table[..., 0]

    @property
    def frames(self) -> Tensor:
        """int32 ``[B, U]``, the encoder frame each token was found at."""
        return self.table[..., 1]

    @property
    def durations(self) -> Tensor:
        """int32 ``[B, U]``, frames it lasts (RNNT: 1)."""
        return self.table[..., 2]

    @property
    def confidence(self) -> Tensor:
        """float32 ``[B, U]``, in 0..1; see `certainty`."""
        return self.table[..., 3].view(torch.float32)


def certainty(log_probability: Tensor, choices: int) -> Tensor:
    """The most probable choice's probability, stretched so that a tie of all choices is 0 and certainty 1.

    NeMo's confidence method ``max_prob``: ``(p * n - 1) / (n - 1)`` for ``n`` choices.
    """
    return ((log_probability.exp() * choices - 1) / (choices - 1)).clamp(0, 1)


class CtcHead(nn.Module):
    """One linear layer: the most probable label of each frame."""

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        self.blank = config.vocabulary
        self.out = nn.Linear(width, config.vocabulary + 1)

    @torch.inference_mode()
    def labels(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Of ``[B, T, width]`` frames: int64 labels and their `certainty`, both ``[B, T]``."""
        logits = self.out(encoded).float()
        best, ids = logits.max(-1)
        return ids, certainty(best - logits.logsumexp(-1), self.blank + 1)


_ACTIVATIONS: Final = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


@dataclass(slots=True)
class DecoderState:
    """Where decoding of a batch stands between two chunks of audio; all tensors have the batch in them.

    Attributes:
        hidden: ``[layers, B, prediction_width]`` of the prediction network.
        cell: the same in float32.
        predicted: ``[B, joint_width]``, its projected output for the last token.
        skip: int64 ``[B]``, frames of the next chunk the last token already covers.
    """

    hidden: Tensor
    cell: Tensor
    predicted: Tensor
    skip: Tensor


class TransducerHead(nn.Module):
    """Prediction network (LSTM), joint, and the greedy loop over them."""

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.blank = config.vocabulary
        hidden = config.prediction_width
        self.embedding = nn.Embedding(config.vocabulary + 1, hidden)  # the blank's row is zero: the start
        self.recurrent = nn.ModuleList(
            nn.Linear(2 * hidden, 4 * hidden) for _ in range(config.prediction_layers)
        )
        self.project_encoder = nn.Linear(width, config.joint_width)
        self.project_prediction = nn.Linear(hidden, config.joint_width)
        self.out = nn.Linear(config.joint_width, config.vocabulary + 1 + len(config.durations))
        self.activation = _ACTIVATIONS[config.activation]()
        self.register_buffer("durations", torch.tensor(config.durations, dtype=torch.long), persistent=False)

    durations: Tensor

    def predict(self, ids: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of the prediction network; ids ``[B]``, states ``[layers, B, H]``."""
        x = self.embedding(ids)
        hiddens, cells = [], []
        for layer, gates_of in enumerate(self.recurrent):
            gates = gates_of(torch.cat((x, hidden[layer]), dim=1)).float()
            enter, forget, candidate, leave = gates.chunk(4, dim=1)
            kept = forget.sigmoid() * cell[layer] + enter.sigmoid() * candidate.tanh()
            x = (leave.sigmoid() * kept.tanh()).to(x.dtype)
            hiddens.append(x)
            cells.append(kept)
        return self.project_prediction(x), torch.stack(hiddens), torch.stack(cells)

    def initial_state(self, batch: int) -> DecoderState:
        """The state before the first frame."""
        weight = self.out.weight
        shape = (self.config.prediction_layers, batch, self.config.prediction_width)
        zeros = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        start = torch.full((batch,), self.blank, device=weight.device)
        predicted, hidden, cell = self.predict(start, zeros, zeros.float())
        return DecoderState(hidden, cell, predicted, torch.zeros_like(start))

    @torch.inference_mode()
    def decode(
        self, encoded: Tensor, lengths: Tensor, state: DecoderState | None = None
    ) -> tuple[Tokens, DecoderState]:
        """Greedy decoding of one chunk.

        Args:
            encoded: ``[B, T, width]`` encoder frames.
            lengths: int64 ``[B]``, valid frames.
            state: what the chunk before returned; None at the start of the recordings.

        Returns:
            The tokens, with frames counted from the chunk's start, and the state for the next chunk.
        """
        batch, time, _ = encoded.shape
        loop = GreedyLoop(self, batch, time)
        loop.begin(encoded, lengths, state or self.initial_state(batch))
        while loop.unfinished():
            loop.step()
        return loop.tokens(), loop.state()


class GreedyLoop:
    """Greedy decoding of up to ``batch`` recordings of up to ``time`` frames.

    All tensors are made once and `step` touches no host memory, so that a CUDA graph can hold it (`graphs`).
    """

    def __init__(self, head: TransducerHead, batch: int, time: int) -> None:
        config, weight = head.config, head.out.weight
        device, dtype = weight.device, weight.dtype
        self.head = head
        self.projected = torch.zeros((batch, time, config.joint_width), dtype=dtype, device=device)
        self.lengths = torch.zeros(batch, dtype=torch.long, device=device)
        self.time = torch.zeros_like(self.lengths)
        self.rows = torch.arange(batch, device=device)
        self.predicted = torch.zeros((batch, config.joint_width), dtype=dtype, device=device)
        shape = (config.prediction_layers, batch, config.prediction_width)
        self.hidden = torch.zeros(shape, dtype=dtype, device=device)
        self.cell = torch.zeros(shape, dtype=torch.float32, device=device)
        self.count = torch.zeros_like(self.lengths)
        self.at_frame = torch.zeros_like(self.lengths)
        # One column more than can be filled: steps that find no token write there. A duration of zero lets
        # `max_symbols` tokens start at one frame.
        columns = time * config.max_symbols + 1
        self.found = torch.zeros((batch, columns, 4), dtype=torch.int32, device=device)

    def begin(self, encoded: Tensor, lengths: Tensor, state: DecoderState) -> None:
        """Start on ``encoded`` ``[b, t, width]``, no larger than the loop; rows beyond ``b`` stay idle."""
        batch, time, _ = encoded.shape
        self.projected[:batch, :time].copy_(self.head.project_encoder(encoded))
        self.lengths.zero_()
        self.lengths[:batch].copy_(lengths)
        self.time.zero_()
        self.time[:batch].copy_(state.skip)
        self.predicted[:batch].copy_(state.predicted)
        self.hidden[:, :batch].copy_(state.hidden)
        self.cell[:, :batch].copy_(state.cell)
        self.count.zero_()
        self.at_frame.zero_()

    def unfinished(self) -> bool:
        """Whether any recording has frames left (waits for the device)."""
        return bool((self.time < self.lengths).any())

    def step(self) -> None:
        """Evaluate the joint once for every recording and move on."""
        head, blank = self.head, self.head.blank
        active = self.time < self.lengths
        at = self.projected[self.rows, torch.minimum(self.time, self.lengths - 1).clamp(min=0)]
        logits = head.out(head.activation(at + self.predicted)).float()
        labels = logits[:, : blank + 1]
        best, ids = labels.max(1)
        is_blank = ids == blank
        if head.config.kind == "tdt":
            lasts = head.durations[logits[:, blank + 1 :].argmax(1)]
            moves = lasts.clamp(min=1).where(is_blank, lasts)
        else:
            lasts = torch.ones_like(ids)
            moves = is_blank.long()
        emit = active & ~is_blank

        slot = torch.where(emit, self.count, self.found.shape[1] - 1)
        confidence = certainty(best - labels.logsumexp(1), blank + 1).view(torch.int32)
        self.found[self.rows, slot] = torch.stack((ids.int(), self.time.int(), lasts.int(), confidence), 1)
        self.count += emit

        self.at_frame.copy_((self.at_frame + emit) * (emit & (moves == 0)))
        forced = self.at_frame >= head.config.max_symbols
        self.at_frame.mul_(~forced)
        self.time += (moves + forced) * active

        predicted, hidden, cell = head.predict(ids, self.hidden, self.cell)
        self.predicted.copy_(predicted.where(emit[:, None], self.predicted))
        self.hidden.copy_(hidden.where(emit[:, None], self.hidden))
        self.cell.copy_(cell.where(emit[:, None], self.cell))

    def tokens(self) -> Tokens:
        """What was found so far."""
        longest = int(self.count.max()) if len(self.count) else 0
        return Tokens(self.found[:, :longest], self.count)

    def state(self) -> DecoderState:
        """What the next chunk needs."""
        return DecoderState(self.hidden, self.cell, self.predicted, (self.time - self.lengths).clamp(min=0))
