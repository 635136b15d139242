"""The TDT loss against the definition: a sum over every path, written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.training.tdt_loss import TDTLoss

V = 3


def enumerate_paths(
    tokens: torch.Tensor, durations: torch.Tensor, labels: list[int], frames: int, steps: tuple[int, ...]
) -> float:
    """Likelihood as the sum over all paths; log probabilities ``[T, U + 1, V + 1]`` and ``[T, U + 1, D]``."""

    def from_node(t: int, u: int) -> float:
        if t >= frames:
            return 0.0
        total = 0.0
        for i, d in enumerate(steps):
            if d > 0:
                p = math.exp(float(tokens[t, u, V] + durations[t, u, i]))
                arrived = t + d == frames and u == len(labels)
                total += p * (1.0 if arrived else from_node(t + d, u))
            if u < len(labels):
                p = math.exp(float(tokens[t, u, labels[u]] + durations[t, u, i]))
                total += p * from_node(t + d, u + 1)
        return total

    return from_node(0, 0)


@st.composite
def lattices(draw: st.DrawFn):
    steps = draw(st.sampled_from([(0, 1), (0, 1, 2), (1, 2), (0, 1, 2, 3, 4), (0, 2, 3)]))
    frames = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    lengths = [draw(st.integers(0, 3)) for _ in frames]
    return steps, frames, lengths, draw(st.integers(0, 10_000))


@settings(max_examples=40, deadline=None)
@given(lattices(), st.sampled_from([0.0, 0.05]))
def test_equals_the_sum_over_all_paths(lattice, sigma):
    steps, frames, lengths, seed = lattice
    generator = torch.Generator().manual_seed(seed)
    batch, top, longest = len(frames), max(frames), max(lengths)
    acts = torch.randn(batch, top, longest + 1, V + 1 + len(steps), generator=generator)
    labels = torch.randint(0, V, (batch, longest), generator=generator)
    loss = TDTLoss(V, steps, sigma=sigma)(acts, labels, torch.tensor(frames), torch.tensor(lengths))
    for row in range(batch):
        tokens = torch.log_softmax(acts[row, ..., : V + 1].double(), -1) - sigma
        durations = torch.log_softmax(acts[row, ..., V + 1 :].double(), -1)
        wanted = labels[row, : lengths[row]].tolist()
        likelihood = enumerate_paths(tokens, durations, wanted, frames[row], steps)
        if likelihood == 0.0:  # no path at all, e.g. three labels of one frame or more in two frames
            assert loss[row] > 1e20
        else:
            assert loss[row].item() == pytest.approx(-math.log(likelihood), rel=1e-4, abs=1e-4)


def test_all_label_sequences_together_are_likelier_than_any_but_not_more_than_certain():
    torch.manual_seed(0)
    acts = torch.randn(1, 3, 3, V + 1 + 3)
    acts = acts[:, :, :1].expand(-1, -1, 3, -1)  # the prediction network knows nothing: one table for all
    total = 0.0
    for length in range(3):
        for labels in itertools.product(range(V), repeat=length):
            padded = torch.tensor([[*labels, *([0] * (2 - length))]])
            one = TDTLoss(V, (0, 1, 2))(acts, padded, torch.tensor([3]), torch.tensor([length]))
            total += math.exp(-one.item())
    assert 0 < total < 1


def test_padding_does_not_matter_and_gets_no_gradient():
    torch.manual_seed(1)
    steps = (0, 1, 2, 3, 4)
    acts = torch.randn(2, 7, 5, V + 1 + 5, requires_grad=True)
    labels = torch.randint(0, V, (2, 4))
    both = TDTLoss(V, steps, sigma=0.02, omega=0.1)(acts, labels, torch.tensor([7, 4]), torch.tensor([4, 2]))
    alone = TDTLoss(V, steps, sigma=0.02, omega=0.1)(
        acts[1:, :4, :3], labels[1:, :2], torch.tensor([4]), torch.tensor([2])
    )
    assert both[1].item() == pytest.approx(alone.item(), rel=1e-5)
    both.sum().backward()
    assert acts.grad is not None
    assert torch.isfinite(acts.grad).all()
    assert acts.grad[1, 4:].abs().max() == 0
    assert acts.grad[1, :, 3:].abs().max() == 0


def test_gradient_is_the_slope():
    torch.manual_seed(2)
    acts = torch.randn(1, 3, 3, V + 1 + 3)
    loss = TDTLoss(V, (0, 1, 2), omega=0.3)
    given_ = (torch.tensor([[0, 2]]), torch.tensor([3]), torch.tensor([2]))
    acts.requires_grad_()
    loss(acts, *given_).backward()
    step = 1e-2
    for index in [(0, 0, 0, 0), (0, 1, 1, 2), (0, 2, 2, 3), (0, 0, 1, 5)]:
        up, down = acts.detach().clone(), acts.detach().clone()
        up[index] += step
        down[index] -= step
        slope = (loss(up, *given_) - loss(down, *given_)) / (2 * step)
        assert acts.grad[index].item() == pytest.approx(slope.item(), abs=2e-3)


def test_omega_mixes_in_the_plain_transducer_loss():
    torch.manual_seed(3)
    acts = torch.randn(1, 4, 3, V + 1 + 2)
    rest = (torch.tensor([[1, 2]]), torch.tensor([4]), torch.tensor([2]))
    tdt, mixed, plain = (TDTLoss(V, (0, 1), omega=w)(acts, *rest).item() for w in (0.0, 0.25, 1.0))
    assert mixed == pytest.approx(0.75 * tdt + 0.25 * plain, rel=1e-5)
    # RNN-T: blank takes one frame, a label none.
    tokens = torch.log_softmax(acts[0, ..., : V + 1].double(), -1)
    likelihood = enumerate_rnnt(tokens, [1, 2], 4)
    assert plain == pytest.approx(-math.log(likelihood), rel=1e-4)


def enumerate_rnnt(tokens: torch.Tensor, labels: list[int], frames: int) -> float:
    def from_node(t: int, u: int) -> float:
        if t == frames:
            return 1.0 if u == len(labels) else 0.0
        total = math.exp(float(tokens[t, u, V])) * from_node(t + 1, u)
        if u < len(labels):
            total += math.exp(float(tokens[t, u, labels[u]])) * from_node(t, u + 1)
        return total

    return from_node(0, 0)
