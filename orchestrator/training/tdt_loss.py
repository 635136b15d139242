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
from typing import Any

import torch
from torch import Tensor

from orchestrator.errors import ConfigurationError

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
        if max(durations) < 1:
            raise ConfigurationError(
                f"no duration above zero in {list(durations)}: a blank could never advance"
            )
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
        zero, never = torch.zeros_like(blank), torch.full_like(blank, _NEVER)
        arcs: list[list[Tensor]] = []
        for d in range(max(self.durations) + 1):
            timed = durations[..., self.durations.index(d)] - self.sigma if d in self.durations else never
            row = [blank + timed if d > 0 else never, label + timed]
            if self.omega > 0:
                # RNN-T as a second set of arcs: a blank takes one frame, a label none.
                plain = [blank + (zero if d == 1 else never), label + (zero if d == 0 else never)]
                row = [torch.cat(pair) for pair in zip(row, plain, strict=True)]
            arcs.append(row)
        copies = 2 if self.omega > 0 else 1
        loss = -_log_likelihood(
            [_into_diagonals(row[0], d, 0) for d, row in enumerate(arcs)][1:],
            [_into_diagonals(row[1], d, 1) for d, row in enumerate(arcs)],
            act_lens.long().repeat(copies),
            label_lens.long().repeat(copies),
        )
        if self.omega > 0:
            by_tdt, by_rnnt = loss.chunk(2)
            loss = (1 - self.omega) * by_tdt + self.omega * by_rnnt
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
    blanks: list[Tensor], labels: list[Tensor], act_lens: Tensor, label_lens: Tensor
) -> Tensor:
    """Log of the sum over all paths, shape ``[B]``.

    ``blanks[i]`` are the arcs of duration ``i + 1`` and ``labels[i]`` those of duration ``i``, by diagonal.
    Both therefore go ``i + 1`` diagonals forward.
    """
    rows = torch.arange(act_lens.shape[0], device=act_lens.device)
    into_labels = torch.stack(labels, dim=1)
    # The last step of a path is a blank, so no label leads into (T, U).
    final = torch.zeros_like(into_labels[:, 0], dtype=torch.bool)
    final[act_lens + label_lens, rows, label_lens] = True
    into_labels = into_labels.masked_fill(final[:, None], _NEVER)
    into_blanks = torch.stack(blanks, dim=1)
    likelihood: Tensor = _PathSum.apply(into_blanks, into_labels, final)  # type: ignore[no-untyped-call]
    return likelihood


class _PathSum(torch.autograd.Function):
    """Forward and backward variables without autograd's bookkeeping of every diagonal.

    The derivative of the log likelihood by an arc's score is the share of the likelihood that takes the
    arc: ``exp(alpha(from) + score + beta(to) - log likelihood)``.
    """

    @staticmethod
    def forward(ctx: Any, into_blanks: Tensor, into_labels: Tensor, final: Tensor) -> Tensor:
        diagonals, _, batch, nodes = into_labels.shape
        blanks, labels = into_blanks.shape[1], into_labels.shape[1]
        # The nearest diagonal last, as in the buffer of alphas, which starts with empty diagonals and whose
        # column u + 1 is node u: column 0 is where labels into u = 0 would come from.
        scores = torch.cat([into_blanks.flip(1), into_labels.flip(1)], dim=1)
        alpha = scores.new_full((diagonals + labels, batch, nodes + 1), _NEVER)
        alpha[labels, :, 1] = 0.0
        arcs = torch.empty_like(scores[0])
        for n in range(1, diagonals):
            now = labels + n
            torch.add(alpha[now - blanks : now, :, 1:], scores[n, :blanks], out=arcs[:blanks])
            torch.add(alpha[n:now, :, :-1], scores[n, blanks:], out=arcs[blanks:])
            alpha[now, :, 1:] = torch.logsumexp(arcs, dim=0)
        likelihood = alpha[labels:, :, 1:].masked_fill(~final, 0.0).sum(dim=(0, 2))
        ctx.save_for_backward(into_blanks, into_labels, final, alpha, likelihood)
        return likelihood

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        into_blanks, into_labels, final, alpha, likelihood = ctx.saved_tensors
        diagonals, labels, batch, nodes = into_labels.shape
        blanks = into_blanks.shape[1]
        # Entry n: the scores of the arcs out of diagonal n, the nearest diagonal first.
        scores = into_labels.new_full((diagonals, blanks + labels, batch, nodes), _NEVER)
        for i in range(min(labels, diagonals - 1)):
            if i < blanks:
                scores[: -i - 1, i] = into_blanks[i + 1 :, i]
            scores[: -i - 1, blanks + i, :, :-1] = into_labels[i + 1 :, i, :, 1:]
        beta = scores.new_full((diagonals + labels, batch, nodes + 1), _NEVER)
        ends = torch.where(final, 0.0, _NEVER)
        beta[diagonals - 1, :, :-1] = ends[-1]
        arcs = torch.empty_like(scores[0])
        for n in range(diagonals - 2, -1, -1):
            torch.add(beta[n + 1 : n + 1 + blanks, :, :-1], scores[n, :blanks], out=arcs[:blanks])
            torch.add(beta[n + 1 : n + 1 + labels, :, 1:], scores[n, blanks:], out=arcs[blanks:])
            beta[n, :, :-1] = torch.maximum(torch.logsumexp(arcs, dim=0), ends[n])
        after = beta[:diagonals, :, :-1] - likelihood[:, None]
        # Where no path exists the loss is infinite and its gradient is left at zero.
        weight = torch.where(likelihood > _NEVER / 2, grads[0], 0.0)[:, None]

        def share(into: Tensor, i: int, columns: slice) -> Tensor:
            before = alpha[labels - 1 - i : labels - 1 - i + diagonals, :, columns]
            return torch.exp((before + into[:, i] + after).clamp(max=0.0)) * weight

        by_blanks = torch.stack([share(into_blanks, i, slice(1, None)) for i in range(blanks)], dim=1)
        by_labels = torch.stack([share(into_labels, i, slice(None, -1)) for i in range(labels)], dim=1)
        return by_blanks, by_labels, None
