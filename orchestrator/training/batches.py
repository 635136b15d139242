"""Training batches: clean utterances drawn, joined and disturbed, the same for the same seed and step."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.training.augment import Conditions, compose
from orchestrator.training.recordings import Recordings, Utterance


@dataclass(frozen=True, slots=True)
class Shape:
    """How a batch is made: recordings of ``parts`` (fewest, most) utterances, ``size`` of them."""

    parts: tuple[int, int]
    size: int


FIRST_SHAPES = (Shape((1, 4), 64),)
SHAPES = (Shape((1, 2), 96), Shape((1, 2), 96), Shape((2, 4), 48), Shape((5, 9), 20))
"""Short recordings, up to four sentences, and up to half a minute, about the same audio in each."""

NO_SPEECH = 0.02
"""Share of recordings without speech: noise must give no words."""


SAMPLES_PER_FRAME = 1280
"""Samples at 16 kHz in an encoder frame of 80 ms."""

SILENCE = -1


@dataclass(frozen=True, slots=True)
class Batch:
    """``audio [B, n]`` at 16 kHz with ``audio_lens [B]`` samples, ``labels [B, U]``, ``label_lens [B]``.

    ``alignment [B, F]`` is a rough guess of the token in each encoder frame, `SILENCE` between sentences.
    """

    audio: Tensor
    audio_lens: Tensor
    labels: Tensor
    label_lens: Tensor
    alignment: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``."""
        return Batch(
            self.audio.to(device, non_blocking=True),
            self.audio_lens.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.label_lens.to(device, non_blocking=True),
            self.alignment.to(device, non_blocking=True),
        )


def align(frames: int, spans: Sequence[tuple[int, int, list[int]]]) -> Tensor:
    """Spread each span's tokens evenly over its encoder frames; `SILENCE` elsewhere.

    Args:
        frames: how many encoder frames there are.
        spans: start and length in samples at 16 kHz, and the tokens spoken there.
    """
    out = torch.full((frames,), SILENCE)
    for start, length, tokens in spans:
        first, count = start // SAMPLES_PER_FRAME, max(1, round(length / SAMPLES_PER_FRAME))
        index = torch.arange(count) * len(tokens) // count
        piece = torch.tensor(tokens)[index][: max(0, frames - first)]
        out[first : first + len(piece)] = piece
    return out


class BatchStream(torch.utils.data.Dataset[Batch]):
    """Batch ``step`` is a pure function of the corpus, the seed and ``step``, so training can resume.

    Args:
        recordings: the corpus.
        encode: text to token ids.
        seed: of all draws.
        shapes: the kinds of batches, drawn evenly.
        conditions: what may happen to a recording.
        steps: how many there are.
        max_words: leave out longer utterances, None for none.
    """

    def __init__(
        self,
        recordings: Recordings,
        encode: Callable[[str], list[int]],
        *,
        seed: int,
        shapes: tuple[Shape, ...],
        conditions: Conditions,
        steps: int,
        max_words: int | None = None,
    ) -> None:
        self._recordings = recordings
        self._utterances = [
            u for u in recordings.utterances if max_words is None or u.text.count(" ") < max_words
        ]
        self._tokens = {u.text: encode(u.text) for u in self._utterances}
        self._seed = seed
        self._shapes = shapes
        self._conditions = conditions
        self._steps = steps

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        return (self[step] for step in range(self._steps))

    def __getitem__(self, step: int) -> Batch:
        """Batch number ``step``."""
        draw = random.Random(f"batch:{self._seed}:{step}")
        noise = np.random.default_rng((self._seed, step))
        shape = draw.choice(self._shapes)
        audio, labels, alignments = [], [], []
        for _ in range(shape.size):
            chosen: list[Utterance] = []
            if draw.random() >= NO_SPEECH:
                chosen = draw.choices(self._utterances, k=draw.randint(*shape.parts))
            parts = [self._recordings.audio(utterance) for utterance in chosen]
            samples, starts = compose(parts, self._conditions, noise)
            tokens = [self._tokens[utterance.text] for utterance in chosen]
            spans = [(s, p.size, t) for s, p, t in zip(starts, parts, tokens, strict=True)]
            audio.append(torch.from_numpy(samples))
            labels.append(torch.tensor(list(itertools.chain(*tokens)), dtype=torch.long))
            alignments.append(align(math.ceil(samples.size / SAMPLES_PER_FRAME), spans))
        return Batch(
            torch.nn.utils.rnn.pad_sequence(audio, batch_first=True),
            torch.tensor([len(row) for row in audio]),
            torch.nn.utils.rnn.pad_sequence(labels, batch_first=True),
            torch.tensor([len(row) for row in labels]),
            torch.nn.utils.rnn.pad_sequence(alignments, batch_first=True, padding_value=SILENCE),
        )


def loader(stream: BatchStream, first: int, workers: int) -> Iterator[Batch]:
    """Batches of ``stream`` from number ``first`` on, made by ``workers`` processes (0: in this one)."""
    rest = torch.utils.data.Subset(stream, range(first, len(stream)))
    return iter(
        torch.utils.data.DataLoader(
            rest,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=2 if workers else None,
        )
    )
