"""Training of the aligner's head: letters from the frames of Moonshine's encoder, on synthetic speech.

CTC with label priors (Huang et al. 2024, "Less Peaky and More Accurate CTC Forced Alignment by Label
Priors"): the loss sees each token's probability divided by a power of how probable it is on average, so that
the blank has no advantage and letters last as long as their sound.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from orchestrator.engines.alignment.base import HEAD_NAME
from orchestrator.engines.alignment.moonshine_ctc import ALPHABET, BLANK, Encoder
from orchestrator.progress import ProgressReporter
from orchestrator.training.augment import Conditions, compose
from orchestrator.training.recordings import Recordings
from orchestrator.training.sentences import library_sentences
from orchestrator.training.voices import Voice, training_voice

_KERNEL: Final = 1
_HIDDEN: Final = 128
_BATCH: Final = 32
_LEARNING_RATE: Final = 4e-3
_PLAIN: Final = 0.75
"""Share of the epochs without prior."""
_PRIOR_MOMENTUM: Final = 0.95
_NEVER: Final = -1e9

Frames = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Heard:
    """One utterance: encoder frames ``[T, D]`` and its tokens."""

    frames: Frames
    tokens: tuple[int, ...]


class Trained(nn.Module):
    """The layers of `moonshine_ctc.Head`, by the same names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, _HIDDEN, _KERNEL, padding=_KERNEL // 2)
        self.out = nn.Linear(_HIDDEN, len(ALPHABET) + 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Log probabilities ``[B, T, V]`` of ``[B, T, D]`` frames."""
        hidden = nn.functional.dropout(self.conv(frames.transpose(1, 2)).relu(), 0.1, self.training)
        rows: Tensor = self.out(hidden.transpose(1, 2)).log_softmax(-1)
        return rows


def plan(count: int, seed: int) -> list[tuple[str, Voice]]:
    """What ``count`` utterances say and in which voices; the same for the same seed and Python."""
    rng = random.Random(f"aligner:{seed}")
    return [(text, training_voice(rng)) for text in library_sentences(seed)[:count]]


def hear(encoder: Encoder, recordings: Recordings, seed: int, progress: ProgressReporter) -> list[Heard]:
    """The encoder's frames of all utterances, each disturbed in its own way."""
    rng = np.random.default_rng(seed)
    conditions = Conditions(edge_s=(0.05, 0.6))
    task = progress.task("encode", total=len(recordings.utterances))
    heard = []
    for done, utterance in enumerate(recordings.utterances):
        audio, _ = compose([recordings.audio(utterance)], conditions, rng)
        tokens = tuple(ALPHABET.index(char) + 1 for char in utterance.text if char in ALPHABET)
        heard.append(Heard(encoder(audio).astype(np.float16), tokens))
        task.update(completed=done + 1)
    task.finish()
    return heard


def train(
    heard: Sequence[Heard], epochs: int, prior: float, seed: int, progress: ProgressReporter
) -> Trained:
    """A head for ``heard``; ``prior`` is the power of the tokens' mean probability that is divided by."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Trained(heard[0].frames.shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _LEARNING_RATE, total_steps=epochs * (len(heard) // _BATCH + 1)
    )
    shares = torch.full((len(ALPHABET) + 1,), 1.0 / (len(ALPHABET) + 1))
    task = progress.task("train", total=epochs)
    for epoch in range(epochs):
        # Of like length together; the batches in random order.
        order = sorted(rng.permutation(len(heard)).tolist(), key=lambda at: len(heard[at].frames) // 20)
        batches = [order[at : at + _BATCH] for at in range(0, len(order), _BATCH)]
        rng.shuffle(batches)
        total = 0.0
        for batch in batches:
            frames, lengths, labels, counts = _collate([heard[at] for at in batch])
            rows = model(frames)
            with torch.no_grad():
                real = rows.exp()[torch.arange(rows.shape[1]) < lengths[:, None]].mean(0)
                shares = _PRIOR_MOMENTUM * shares + (1 - _PRIOR_MOMENTUM) * real
            # The prior sets in once the head has learnt its letters.
            power = prior if epoch >= epochs * _PLAIN else 0.0
            if power:
                scores = rows - power * shares.clamp(min=1e-6).log()
                loss = ctc_loss(scores, lengths, labels, counts).mean()
            else:  # the same, faster
                loss = nn.functional.ctc_loss(rows.transpose(0, 1), labels, lengths, counts, blank=BLANK)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        task.update(completed=epoch + 1, description=f"train, loss {total / len(batches):.3f}")
    task.finish()
    return model.eval()


def ctc_loss(scores: Tensor, lengths: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """The CTC loss per token of ``scores`` ``[B, T, V]`` that need not be normalised (torch's own must be).

    Graves et al. 2006, with ``lengths`` ``[B]`` frames and ``labels`` ``[B, U]``, of which the first
    ``counts`` ``[B]`` count.
    """
    rows, most = labels.shape
    states = torch.full((rows, 2 * most + 1), BLANK, dtype=torch.long)
    states[:, 1::2] = labels
    skips = torch.zeros_like(states, dtype=torch.bool)
    skips[:, 3::2] = labels[:, 1:] != labels[:, :-1]
    never = torch.full((rows, 1), _NEVER)
    seen = scores.gather(2, states[:, None].expand(-1, scores.shape[1], -1))
    alpha = torch.cat([seen[:, 0, :2], never.expand(-1, 2 * most - 1)], dim=1)
    for time in range(1, scores.shape[1]):
        one = torch.cat([never, alpha[:, :-1]], dim=1)
        two = torch.cat([never, never, alpha[:, :-2]], dim=1).masked_fill(~skips, _NEVER)
        moved = torch.stack([alpha, one, two]).logsumexp(0) + seen[:, time]
        alpha = torch.where((time < lengths)[:, None], moved, alpha)
    ends = torch.stack([2 * counts, 2 * counts - 1], dim=1)
    return -alpha.gather(1, ends).logsumexp(1) / counts


def save(model: Trained, folder: Path) -> Path:
    """Write the head into ``folder``, in 16 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / HEAD_NAME
    weights = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    with tempfile.TemporaryDirectory(dir=folder) as work:
        part = Path(work) / HEAD_NAME
        save_file(weights, part)
        part.replace(path)
    return path


def _collate(batch: Sequence[Heard]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lengths = torch.tensor([len(one.frames) for one in batch])
    counts = torch.tensor([len(one.tokens) for one in batch])
    frames = torch.zeros((len(batch), int(lengths.max()), batch[0].frames.shape[1]))
    labels = torch.full((len(batch), int(counts.max())), BLANK, dtype=torch.long)
    for row, one in enumerate(batch):
        frames[row, : len(one.frames)] = torch.from_numpy(one.frames.astype(np.float32))
        labels[row, : len(one.tokens)] = torch.tensor(one.tokens)
    return frames, lengths, labels, counts
