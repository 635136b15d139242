"""From encoded audio to tokens: the likeliest ones, drawn ones, or a search with beams.

One loop for all runtimes. All rows of a call have prompts of one length, so that they are always at the same
position; a row that has ended goes on with end tokens, which nobody reads. What a row gets does not depend on
the rows beside it: noise for drawing comes from a seed of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.engines.whisper_native.runtime import Steps

_NEVER: Final = float("-inf")
_LOOK_EVERY: Final = 4
"""Steps between two looks of the host at a GPU's tokens, which wait for the GPU each."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be written.

    Attributes:
        end: the token that ends a transcript.
        suppressed: tokens never to write.
        suppressed_first: tokens not to begin with.
        max_tokens: most tokens after the prompt, `end` included.
        no_repeat: words of this many tokens are written once only; 0: as often as is likely.
    """

    end: int
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    max_tokens: int = 224
    no_repeat: int = 0


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What was written for one row.

    Attributes:
        tokens: without prompt and end.
        probabilities: of each of them, 0..1.
        mean_log_probability: of them and the end token, if it came.
    """

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]
    mean_log_probability: float


def read_prompt(steps: Steps, prompt: Tensor) -> tuple[Tensor, Tensor]:
    """Read prompts, int64 ``[rows, tokens]``: logits after the first token and after the last."""
    first = last = steps(prompt[:, 0]).clone()
    for place in range(1, prompt.shape[1]):
        last = steps(prompt[:, place])
    return first, last


def likeliest(steps: Steps, logits: Tensor, rules: Rules) -> list[Hypothesis]:
    """Write the likeliest token each time; ``logits`` are those after the prompt."""
    return _write(steps, logits, rules, lambda scores, _: scores.argmax(1))


def drawn(
    steps: Steps, logits: Tensor, rules: Rules, temperature: float, seeds: Sequence[int]
) -> list[Hypothesis]:
    """Draw each token; the higher ``temperature`` (above 0), the more freely.

    ``seeds``, one a row, make what is drawn repeatable (the Gumbel-max trick: E. J. Gumbel, Statistical
    Theory of Extreme Values, 1954).
    """
    sources = [np.random.default_rng(seed) for seed in seeds]

    def choose(scores: Tensor, _: int) -> Tensor:
        noise = np.stack([source.gumbel(size=scores.shape[1]) for source in sources])
        noisy = scores / temperature + torch.from_numpy(noise).to(scores.device, scores.dtype)
        return noisy.argmax(1)

    return _write(steps, logits, rules, choose)


def _write(
    steps: Steps, logits: Tensor, rules: Rules, choose: Callable[[Tensor, int], Tensor]
) -> list[Hypothesis]:
    masks = _Masks(rules, logits)
    tokens: list[Tensor] = []
    chances: list[Tensor] = []
    done = torch.zeros(logits.shape[0], dtype=torch.bool, device=logits.device)
    look = 1 if logits.device.type == "cpu" else _LOOK_EVERY
    for step in range(rules.max_tokens):
        scores = masks(logits, step, tokens)
        best = choose(scores, step)
        chances.append(scores.log_softmax(1).gather(1, best[:, None])[:, 0])
        tokens.append(torch.where(done, rules.end, best))
        done = done | (best == rules.end)
        if step + 1 == rules.max_tokens or ((step + 1) % look == 0 and bool(done.all())):
            break
        logits = steps(tokens[-1])
    if not tokens:
        return [Hypothesis((), (), 0.0) for _ in range(logits.shape[0])]
    table, likely = torch.stack(tokens, dim=1).cpu().numpy(), torch.stack(chances, dim=1).cpu().numpy()
    return [_hypothesis(row, chance, rules.end) for row, chance in zip(table, likely, strict=True)]


def _hypothesis(tokens: NDArray[np.int64], chances: NDArray[np.float32], end: int) -> Hypothesis:
    ends = np.flatnonzero(tokens == end)
    length = int(ends[0]) if ends.size else len(tokens)
    counted = chances[: length + 1]
    return Hypothesis(
        tuple(map(int, tokens[:length])),
        tuple(float(math.exp(chance)) for chance in chances[:length]),
        float(counted.mean()),
    )


class _Masks:
    """Takes what must not be written out of the scores."""

    def __init__(self, rules: Rules, logits: Tensor) -> None:
        self._rules = rules
        self._always = _mask(rules.suppressed, logits)
        self._first = _mask((*rules.suppressed, *rules.suppressed_first), logits)

    def __call__(self, logits: Tensor, step: int, tokens: Sequence[Tensor]) -> Tensor:
        scores = logits + (self._first if step == 0 else self._always)
        if self._rules.no_repeat and step >= self._rules.no_repeat:
            self._forbid_repeats(scores, torch.stack(list(tokens), dim=1).tolist())
        return scores

    def _forbid_repeats(self, scores: Tensor, written: Sequence[Sequence[int]]) -> None:
        size = self._rules.no_repeat
        for row, tokens in enumerate(written):
            tail = tokens[len(tokens) - size + 1 :]
            ends = [
                tokens[place + size - 1]
                for place in range(len(tokens) - size + 1)
                if tokens[place : place + size - 1] == tail
            ]
            again = [token for token in ends if token != self._rules.end]
            if again:
                scores[row, again] = _NEVER


def _mask(tokens: Sequence[int], logits: Tensor) -> Tensor:
    mask = torch.zeros(logits.shape[1], device=logits.device)
    if tokens:
        mask[torch.tensor(sorted(set(tokens)), device=logits.device)] = _NEVER
    return mask


@dataclass(slots=True)
class _Beam:
    """A transcript under way or ended; ``row`` is where its cache is."""

    score: np.float32
    tokens: tuple[int, ...] = ()
    chances: tuple[float, ...] = ()
    row: int = 0


@dataclass(slots=True)
class _Search:
    """The beams of one window."""

    running: list[_Beam]
    ended: list[_Beam] = field(default_factory=list)
    open: bool = True


def beams(
    steps: Steps, logits: Tensor, rules: Rules, width: int, length_penalty: float = 1.0
) -> list[Hypothesis]:
    """Search with ``width`` beams for each window; what ends a search is what ends transformers'.

    Args:
        steps: on ``width`` rows for each window, window by window, all after the same prompt.
        logits: float32 ``[windows * width, vocabulary]`` after the prompt.
        rules: what may be written.
        width: transcripts that are kept under way for each window.
        length_penalty: scores are divided by the number of tokens to this power.
    """
    masks = _Masks(rules, logits)
    count = logits.shape[0] // width
    searches = [
        _Search([_Beam(np.float32(0 if number == 0 else -1e9), row=number) for number in range(width)])
        for _ in range(count)
    ]
    written: list[Tensor] = []
    for step in range(rules.max_tokens):
        chances = masks(logits.log_softmax(1), step, written)
        scores = torch.tensor(
            [[beam.score for beam in search.running] for search in searches], device=logits.device
        )
        totals = (chances.view(count, width, -1) + scores[:, :, None]).flatten(1)
        # Twice as many: as many as there are beams go on, even if each of them could end.
        values, places = totals.topk(2 * width, dim=1)
        own = chances.flatten()[(places + _offsets(count, width, logits)).flatten()].view_as(values)
        table = zip(values.cpu().numpy(), places.tolist(), own.tolist(), strict=True)
        last = step + 1 == rules.max_tokens
        for search, (value, place, chance) in zip(searches, table, strict=True):
            _advance(search, value, place, chance, rules, width, logits.shape[1], length_penalty, last)
        if last or not any(search.open for search in searches):
            break
        rows = [
            number * width + beam.row for number, search in enumerate(searches) for beam in search.running
        ]
        steps.reorder(torch.tensor(rows, device=logits.device))
        for search in searches:
            for row, beam in enumerate(search.running):
                beam.row = row
        all_tokens = [beam.tokens for search in searches for beam in search.running]
        if rules.no_repeat:
            history = torch.tensor(all_tokens)
            written = [history[:, place] for place in range(history.shape[1])]
        logits = steps(torch.tensor([tokens[-1] for tokens in all_tokens], device=logits.device))
    return [_best(search, rules.end) for search in searches]


def _offsets(count: int, width: int, logits: Tensor) -> Tensor:
    return torch.arange(count, device=logits.device)[:, None] * (width * logits.shape[1])


def _advance(
    search: _Search,
    values: NDArray[np.float32],
    places: Sequence[int],
    chances: Sequence[float],
    rules: Rules,
    width: int,
    vocabulary: int,
    length_penalty: float,
    last: bool,
) -> None:
    """One token more; ``values`` are the best candidates' scores, best first."""
    going: list[_Beam] = []
    length = len(search.running[0].tokens) + 1
    for rank, (value, place, chance) in enumerate(zip(values, places, chances, strict=True)):
        parent, token = search.running[place // vocabulary], place % vocabulary
        beam = _Beam(value, (*parent.tokens, token), (*parent.chances, chance), place // vocabulary)
        if token != rules.end and not last:
            going.append(beam)
        elif rank < width and search.open:
            beam.score = np.float32(value / np.float32(length**length_penalty))
            search.ended.append(beam)
    search.ended = sorted(search.ended, key=lambda one: -one.score)[:width]
    if last:
        return
    search.running = going[:width]
    if search.open and len(search.ended) == width:
        reachable = np.float32(search.running[0].score / np.float32(length**length_penalty))
        search.open = bool(reachable > search.ended[-1].score)


def _best(search: _Search, end: int) -> Hypothesis:
    chosen = (search.ended or search.running)[0]
    if not chosen.tokens:
        return Hypothesis((), (), 0.0)
    mean = sum(chosen.chances) / len(chosen.chances)
    length = len(chosen.tokens) - (chosen.tokens[-1] == end)
    return Hypothesis(
        chosen.tokens[:length], tuple(math.exp(chance) for chance in chosen.chances[:length]), mean
    )
