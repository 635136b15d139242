"""Greedy decoding of batches against the definition, one recording and one step at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.engines.fastconformer.config import HeadConfig
from orchestrator.engines.fastconformer.heads import CtcHead, Tokens, TransducerHead, certainty

WIDTH = 12
VOCABULARY = 7

torch.set_num_threads(1)

Token = tuple[int, int, int]
"""Id, frame, duration."""


def transducer(kind: str, seed: int, max_symbols: int = 3) -> TransducerHead:
    torch.manual_seed(seed)
    config = HeadConfig(
        kind="tdt" if kind == "tdt" else "rnnt",
        vocabulary=VOCABULARY,
        durations=(0, 1, 2, 4) if kind == "tdt" else (),
        prediction_width=6,
        prediction_layers=2,
        joint_width=8,
        max_symbols=max_symbols,
    )
    head = TransducerHead(WIDTH, config).eval()
    with torch.no_grad():
        head.out.weight.mul_(8)  # decisive logits, so that every kind of move happens
        head.embedding.weight[VOCABULARY] = 0
    return head


def frames(seed: int, batch: int, time: int) -> torch.Tensor:
    return torch.randn((batch, time, WIDTH), generator=torch.Generator().manual_seed(seed)) * 2


def listed(tokens: Tokens, row: int) -> list[Token]:
    count = int(tokens.count[row])
    return [
        (int(tokens.ids[row, i]), int(tokens.frames[row, i]), int(tokens.durations[row, i]))
        for i in range(count)
    ]


@torch.inference_mode()
def by_definition(head: TransducerHead, encoded: torch.Tensor) -> list[Token]:
    """Greedy TDT and RNNT as the papers state it, for one recording ``[T, width]``."""
    state = head.initial_state(1)
    hidden, cell, predicted = state.hidden, state.cell, state.predicted
    found: list[Token] = []
    time, emitted_here = 0, 0
    while time < len(encoded):
        logits = head.out(head.activation(head.project_encoder(encoded[time])[None] + predicted))[0]
        token = int(logits[: VOCABULARY + 1].argmax())
        if head.config.kind == "tdt":
            duration = head.config.durations[int(logits[VOCABULARY + 1 :].argmax())]
            move = max(duration, 1) if token == VOCABULARY else duration
        else:
            duration, move = 1, int(token == VOCABULARY)
        if token != VOCABULARY:
            found.append((token, time, duration))
            predicted, hidden, cell = head.predict(torch.tensor([token]), hidden, cell)
            emitted_here += 1
            if move == 0 and emitted_here >= head.config.max_symbols:
                move = 1
        if move:
            emitted_here = 0
        time += move
    return found


@pytest.mark.parametrize("kind", ["tdt", "rnnt"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), lengths=st.lists(st.integers(0, 20), min_size=1, max_size=5))
def test_a_batch_decodes_as_each_recording_does_by_definition(
    kind: str, seed: int, lengths: list[int]
) -> None:
    head = transducer(kind, seed)
    encoded = frames(seed, len(lengths), max(*lengths, 1))
    tokens, _ = head.decode(encoded, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        assert listed(tokens, row) == by_definition(head, encoded[row, :length])


@pytest.mark.parametrize("kind", ["tdt", "rnnt"])
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    chunks=st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=1, max_size=6),
)
def test_chunks_with_carried_state_decode_as_the_whole_does(
    kind: str, seed: int, chunks: list[list[int]]
) -> None:
    """Three recordings cut at different places: each chunk is as long as hypothesis wants for each."""
    head = transducer(kind, seed)
    total = [sum(chunk[row] for chunk in chunks) for row in range(3)]
    encoded = frames(seed, 3, max(*total, 1))
    whole, _ = head.decode(encoded, torch.tensor(total))

    state = None
    done = [0, 0, 0]
    found: list[list[Token]] = [[], [], []]
    for chunk in chunks:
        part = torch.zeros((3, max(*chunk, 1), WIDTH))
        for row, length in enumerate(chunk):
            part[row, :length] = encoded[row, done[row] : done[row] + length]
        tokens, state = head.decode(part, torch.tensor(chunk), state)
        for row in range(3):
            found[row] += [(token, frame + done[row], last) for token, frame, last in listed(tokens, row)]
            done[row] += chunk[row]
    assert found == [listed(whole, row) for row in range(3)]


def test_every_move_of_the_loop_is_met_by_these_models() -> None:
    """The properties above hold for nothing if tokens never last 0 frames or never reach the limit."""
    met: set[str] = set()
    for seed in range(20):
        head = transducer("tdt", seed, max_symbols=2)
        found = by_definition(head, frames(seed, 1, 30)[0])
        met |= {f"duration {duration}" for _, _, duration in found}
        at_one_frame = {frame: sum(f == frame for _, f, _ in found) for _, frame, _ in found}
        met |= {"limit reached" for count in at_one_frame.values() if count == 2}
    assert met >= {"duration 0", "duration 1", "duration 2", "duration 4", "limit reached"}


def test_ctc_labels_are_the_most_probable_ones() -> None:
    torch.manual_seed(0)
    head = CtcHead(WIDTH, HeadConfig("ctc", VOCABULARY)).eval()
    encoded = frames(0, 2, 9)
    labels, confidence = head.labels(encoded)
    best, expected = head.out(encoded).detach().softmax(-1).max(-1)
    assert torch.equal(labels, expected)
    assert torch.allclose(confidence, certainty(best.log(), VOCABULARY + 1))


def test_certainty_is_nought_for_a_tie_and_one_for_no_doubt() -> None:
    assert float(certainty(torch.tensor(0.25).log(), 4)) == pytest.approx(0, abs=1e-6)
    assert float(certainty(torch.tensor(0.0), 4)) == pytest.approx(1)
