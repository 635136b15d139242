"""The TDT loss in plain torch: any device, vectorised over the batch and the lattice's anti-diagonals.

Hainan Xu, Fei Jia, Somshubra Majumdar, He Huang, Shinji Watanabe, Boris Ginsburg: "Efficient Sequence
Transduction by Jointly Predicting Tokens and Durations", ICML 2023 (arXiv:2304.06795).

A node ``(t, u)`` of the lattice means: ``t`` frames used, ``u`` labels written. From it the joint network
predicts a token and, independently, a duration ``d`` out of a fixed set:

* blank with ``d > 0`` leads to ``(t + d, u)``: blank never stays on its frame;
* the next label with any ``d`` leads to ``(t + d, u + 1)``.

The likelihood is the sum over all paths from ``(0, 0)`` to ``(T, U)`` whose last step is a blank, and the
forward variable of the paper (its equation for alpha) is computed here along ``n = t + u``: every arc goes
to a larger ``n``, so all nodes of one ``n`` are computed at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Stands for log 0: finite, because inf - inf in a gradient is NaN.
_NEVER = -1e30


class TDTLoss(torch.nn.Module):
    """Negative log likelihood of token-and-duration transducers, one value per utterance.

    Args:
        blank: index of the blank among the token logits (the last one in NeMo).
        durations: the durations the joint predicts, in frames, e.g. ``(0, 1, 2, 3, 4)``.
        sigma: logit under-normalisation of the paper (section 3.3): subtracted from each token's log
            probability, which makes paths with fewer, longer steps likelier. 0 gives the exact likelihood.
        omega: weight in 0..1 of the plain RNN-T loss over the same token logits (Graves 2012), mixed in so
            that the tokens alone stay usable. The paper samples it by batch; this is its expectation.
    """

    # NeMo's RNNTLoss asks the loss it wraps for this name; None means one value per utterance.
    reduction = None

    def __init__(
        self, blank: int, durations: Sequence[int], *, sigma: float = 0.0, omega: float = 0.0
    ) -> None:
        super().__init__()
        self.blank = blank
        self.durations = tuple(durations)
        self.sigma = sigma
        self.omega = omega

    def forward(self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
        """The loss of each utterance, shape ``[B]``, in nats.

        Args:
            acts: the joint's raw output ``[B, T, U + 1, V + 1 + D]``: token logits, then duration logits.
            labels: token ids ``[B, U]``; what lies beyond an utterance's length is ignored.
            act_lens: frames of each utterance ``[B]``, 1..T.
            label_lens: labels of each utterance ``[B]``, 0..U.
        """
        count = len(self.durations)
        acts = acts.float()
        tokens = torch.log_softmax(acts[..., :-count], dim=-1)
        durations = torch.log_softmax(acts[..., -count:], dim=-1)
        blank, label = _scores(tokens, labels, self.blank)
        lengths = (act_lens.long(), label_lens.long())
        loss = -_log_likelihood(
            [(d, blank - self.sigma + durations[..., i]) for i, d in enumerate(self.durations) if d > 0],
            [(d, label - self.sigma + durations[..., i]) for i, d in enumerate(self.durations)],
            *lengths,
        )
        if self.omega > 0:
            loss = (1 - self.omega) * loss - self.omega * _log_likelihood(
                [(1, blank)], [(0, label)], *lengths
            )
        return loss


def _scores(tokens: Tensor, labels: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """Log probabilities of blank and of the next label at each node, both ``[B, T, U + 1]``."""
    batch, frames, nodes, _ = tokens.shape
    index = labels.long()[:, None, :, None].expand(batch, frames, nodes - 1, 1)
    label = torch.gather(tokens[:, :, : nodes - 1], 3, index).squeeze(3)
    # After the last label there is no next one.
    return tokens[..., blank], torch.nn.functional.pad(label, (0, 1), value=_NEVER)


def _into_diagonals(scores: Tensor, duration: int, labels: int) -> Tensor:
    """Scores of the arcs *into* each node, by diagonal: ``[T + U + 1, B, U + 1]``.

    Entry ``[n, b, u]`` is the score of the arc that ends in ``(n - u, u)`` after ``duration`` frames and
    ``labels`` (0 or 1) labels, or log 0 where that arc would start outside the lattice or end beyond T.
    """
    batch, frames, nodes = scores.shape
    width = frames + nodes
    if duration > frames:
        return scores.new_full((width, batch, nodes), _NEVER)
    rows = scores.transpose(1, 2)[..., : frames + 1 - duration]
    rows = torch.nn.functional.pad(rows[:, : nodes - labels], (0, 0, labels, 0), value=_NEVER)
    # Rows of width + 1 read as rows of width: row u moves right by u, which puts a diagonal in a column.
    padding = (duration, width + 1 - duration - rows.shape[2])
    rows = torch.nn.functional.pad(rows, padding, value=_NEVER)
    skewed = rows.flatten(1)[:, : nodes * width].view(batch, nodes, width)
    return skewed.permute(2, 0, 1)


def _log_likelihood(
    blanks: list[tuple[int, Tensor]], labels: list[tuple[int, Tensor]], act_lens: Tensor, label_lens: Tensor
) -> Tensor:
    """Log of the sum over all paths, shape ``[B]``; arcs are (duration, scores ``[B, T, U + 1]``)."""
    batch, frames, nodes = blanks[0][1].shape
    device = act_lens.device
    into_blank = torch.stack([_into_diagonals(scores, d, 0) for d, scores in blanks], dim=1)
    into_label = torch.stack([_into_diagonals(scores, d, 1) for d, scores in labels], dim=1)
    into = torch.cat([into_blank, into_label], dim=1).unbind(0)
    never = torch.full((batch, nodes), _NEVER, device=device)
    start = never.clone()
    start[:, 0] = 0.0
    alphas = [start]
    for n in range(1, frames + nodes):
        by_blank = torch.stack([alphas[n - d] if d <= n else never for d, _ in blanks])
        by_label = torch.stack([alphas[n - d - 1] if d < n else never for d, _ in labels])
        by_label = torch.nn.functional.pad(by_label[..., :-1], (1, 0), value=_NEVER)
        alphas.append(torch.logsumexp(torch.cat([by_blank, by_label]) + into[n], dim=0).clamp(min=_NEVER))
    # The last step of a path is a blank into (T, U); nodes at or beyond T lead nowhere that counts.
    alpha = torch.stack(alphas)
    rows = torch.arange(batch, device=device)
    last = act_lens + label_lens
    ends = [
        alpha[(last - d).clamp(min=0), rows, label_lens] + into_blank[last, i, rows, label_lens]
        for i, (d, _) in enumerate(blanks)
    ]
    return torch.logsumexp(torch.stack(ends), dim=0)
