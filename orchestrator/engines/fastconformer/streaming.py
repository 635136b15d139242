"""Live streams on the network: the audio and the decoder's state of each stay on the device, in a pool.

One pass takes any of the streams: their windows are put together on the device, go through the encoder as one
batch of equal shape, and are decoded with the states that the last pass left. The state after the committed
frames goes back to the pool; the one after the right context is dropped, unless the audio ends there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.engines.fastconformer.causal import OVERLAP, CausalEncoder, Memory
from orchestrator.engines.fastconformer.compute import Compute
from orchestrator.engines.fastconformer.heads import CtcHead, DecoderState, Tokens
from orchestrator.engines.fastconformer.rounds import Geometry, Round
from orchestrator.engines.lexicon import Token

_COLUMNS: Final = 8
"""Whole numbers of a row that go to the device."""


class Heard(NamedTuple):
    """What one stream said in one pass: committed tokens, and tentative ones after them."""

    committed: list[Token]
    tail: list[Token]


class StreamPool:
    """Places for the streams of one network. All memory is taken at once; a free place needs no cleaning."""

    def __init__(self, compute: Compute, geometry: Geometry, places: int, max_batch: int) -> None:
        """Take the memory.

        Args:
            compute: runs the network, which nobody else may use meanwhile.
            geometry: the window.
            places: streams at once.
            max_batch: the most streams in one pass.

        Raises:
            torch.OutOfMemoryError: there is not enough.
        """
        self.compute = compute
        self.geometry = geometry
        self.max_batch = max_batch
        device = compute.device
        head = compute.network.head
        self._ctc = _CtcRuns(head, places) if isinstance(head, CtcHead) else None
        self._audio = torch.zeros((places * geometry.window, geometry.block), device=device)
        self._steps = torch.arange(geometry.window, device=device)
        self._rows = torch.arange(max_batch, device=device)
        if not isinstance(head, CtcHead):
            with torch.inference_mode():
                self._start = head.initial_state(1)
            start = self._start
            self._state = DecoderState(
                hidden=start.hidden.repeat(1, places, 1),
                cell=start.cell.repeat(1, places, 1),
                predicted=start.predicted.repeat(places, 1),
                skip=start.skip.repeat(places),
            )
        # One buffer holds a pass's numbers and then its audio, so that they travel together. After a forced
        # end an incomplete block comes once more, whole.
        blocks = max_batch * (geometry.chunk + geometry.right + 1)
        room = 8 * (max_batch * _COLUMNS + blocks) + 4 * blocks * geometry.block
        self._staging = torch.empty(room, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._staged: NDArray[np.uint8] = self._staging.numpy()

    @torch.inference_mode()
    def step(self, parts: Sequence[Round], *, tails: Sequence[bool]) -> list[Heard]:
        """Compute one round of each of up to ``max_batch`` streams. Nothing has changed when it fails.

        Args:
            parts: of streams in different places.
            tails: of each, whether the tokens after the committed frames are wanted.

        Raises:
            torch.OutOfMemoryError: the device has no room; fewer streams may fit.
            RuntimeError: the device failed.
        """
        wanted = [index for index, part in enumerate(parts) if part.tail and (part.final or tails[index])]
        numbers, places, blocks = self._upload(parts, wanted)
        slot, base, samples, offset, commit, tail, final_fresh, rest = numbers
        if len(places):
            self._audio.index_copy_(0, places, blocks)
        window = self.geometry.window
        at = (base[:, None] + self._steps) % window + slot[:, None] * window
        audio = self._audio.index_select(0, at.flatten()).view(len(parts), -1)
        fresh = final_fresh % 2 > 0
        encoded, offset = self._encode(audio, samples, slot, fresh, offset, commit)
        if self._ctc is not None:
            heard = self._ctc.tokens(encoded, offset, parts, set(wanted))
            self._keep(slot)
            return heard
        state = self._gathered(slot, fresh)
        frames = _taken(encoded, self._rows[: len(parts)], offset, self.geometry.chunk)
        found, state = self.compute.decode(frames, commit, state)
        found_packed, state = _packed(found), _copied(state)
        tail_packed = None
        if wanted:
            rows = self._rows[: len(parts)] if len(wanted) == len(parts) else rest[: len(wanted)]
            frames = _taken(encoded, rows, (offset + commit)[rows], self.geometry.right)
            found, after = self.compute.decode(frames, tail[rows], _picked(state, rows))
            tail_packed = _packed(found)
            if any(parts[index].final for index in wanted):
                _put(state, rows, after, keep=(final_fresh[rows] < 2))
        heard = _listed(parts, wanted, found_packed, tail_packed)
        self._scatter(slot, state)
        self._keep(slot)
        return heard

    def _encode(
        self, audio: Tensor, samples: Tensor, slot: Tensor, fresh: Tensor, offset: Tensor, commit: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The frames of the windows, and where among them the first to commit is."""
        return self.compute.encode(audio, samples)[0], offset

    def _keep(self, slot: Tensor) -> None:
        """The pass has succeeded: what `_encode` has to remember may replace what it remembered."""

    def _upload(self, parts: Sequence[Round], wanted: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers ``[8, n]``, where new blocks go ``[m]``, and the blocks ``[m, block]``, on the device."""
        window, block = self.geometry.window, self.geometry.block
        rows = len(parts)
        numbers = np.zeros((_COLUMNS, rows), dtype=np.int64)
        numbers[:7] = np.array(
            [
                (
                    part.slot,
                    part.base,
                    part.samples,
                    part.first - part.base,
                    part.commit,
                    part.tail,
                    2 * part.final + part.fresh,
                )
                for part in parts
            ]
        ).T
        numbers[7, : len(wanted)] = wanted
        counts = np.array([-(-part.audio.size // block) for part in parts])
        total = int(counts.sum())
        # Block k of a stream is at k modulo the window's length, within the stream's place.
        starts = np.cumsum(counts) - counts
        first = np.array([part.block for part in parts])
        number = np.arange(total) + np.repeat(first - starts, counts)
        places = number % window + np.repeat(numbers[0] * window, counts)

        begin = numbers.nbytes + places.nbytes
        end = begin + 4 * total * block
        staged = self._staged
        staged[: numbers.nbytes].view(np.int64)[:] = numbers.ravel()
        staged[numbers.nbytes : begin].view(np.int64)[:] = places
        samples = staged[begin:end].view(np.float32)
        for part, start, count in zip(parts, (starts * block).tolist(), counts.tolist(), strict=True):
            stop = start + part.audio.size
            samples[start:stop] = part.audio
            samples[stop : start + count * block] = 0
        sent = self._staging[:end].to(self.compute.device, non_blocking=True)
        return (
            sent[: numbers.nbytes].view(torch.int64).view(_COLUMNS, rows),
            sent[numbers.nbytes : begin].view(torch.int64),
            sent[begin:].view(torch.float32).view(total, block),
        )

    def _gathered(self, slot: Tensor, fresh: Tensor) -> DecoderState:
        pool, start = self._state, self._start
        layers = fresh[None, :, None]
        return DecoderState(
            hidden=torch.where(layers, start.hidden, pool.hidden.index_select(1, slot)),
            cell=torch.where(layers, start.cell, pool.cell.index_select(1, slot)),
            predicted=torch.where(fresh[:, None], start.predicted, pool.predicted.index_select(0, slot)),
            skip=torch.where(fresh, start.skip, pool.skip.index_select(0, slot)),
        )

    def _scatter(self, slot: Tensor, state: DecoderState) -> None:
        pool = self._state
        pool.hidden.index_copy_(1, slot, state.hidden)
        pool.cell.index_copy_(1, slot, state.cell)
        pool.predicted.index_copy_(0, slot, state.predicted)
        pool.skip.index_copy_(0, slot, state.skip)


class CachedPool(StreamPool):
    """A `StreamPool` for a cache-aware encoder, whose memory of each stream stays on the device too.

    A window is a chunk and the little audio before it that its features and subsampling need; its frames are
    committed at once, for the encoder hears nothing of what comes later.
    """

    def __init__(
        self, compute: Compute, encoder: CausalEncoder, hop: int, places: int, max_batch: int
    ) -> None:
        """Take the memory, for chunks of the length that the ``encoder`` of ``compute`` was trained for."""
        geometry = Geometry(OVERLAP, encoder.chunk, 0, hop, encoder.config.subsampling)
        super().__init__(compute, geometry, places, max_batch)
        self._encoder = encoder
        like = torch.zeros(0, dtype=compute.dtype, device=compute.device)
        self._memory = encoder.empty(places, like)
        self._after: Memory | None = None

    def _encode(
        self, audio: Tensor, samples: Tensor, slot: Tensor, fresh: Tensor, offset: Tensor, commit: Tensor
    ) -> tuple[Tensor, Tensor]:
        mel, frames = self.compute.network.features(audio, samples)
        x, _ = self._encoder.before_layers(mel.to(self.compute.dtype), frames)
        x = _taken(x, self._rows[: len(slot)], offset, self.geometry.chunk)
        memory = self._memory
        passed = memory.passed.index_select(1, slot).masked_fill(fresh[None, :, None, None], 0.0)
        kept = memory.frames.index_select(0, slot).masked_fill(fresh, 0)
        encoded, self._after = self._encoder.step(
            x, commit, Memory(memory.heard.index_select(1, slot), passed, kept)
        )
        return encoded, torch.zeros_like(offset)

    def _keep(self, slot: Tensor) -> None:
        if self._after is not None:
            self._memory.heard.index_copy_(1, slot, self._after.heard)
            self._memory.passed.index_copy_(1, slot, self._after.passed)
            self._memory.frames.index_copy_(0, slot, self._after.frames)
            self._after = None


def _copied(state: DecoderState) -> DecoderState:
    return DecoderState(state.hidden.clone(), state.cell.clone(), state.predicted.clone(), state.skip.clone())


def _picked(state: DecoderState, rows: Tensor) -> DecoderState:
    return DecoderState(
        state.hidden.index_select(1, rows),
        state.cell.index_select(1, rows),
        state.predicted.index_select(0, rows),
        state.skip.index_select(0, rows),
    )


def _put(state: DecoderState, rows: Tensor, new: DecoderState, keep: Tensor) -> None:
    """Put the rows of ``new`` into ``state`` at ``rows``, but for those to ``keep``."""
    old = _picked(state, rows)
    layers = keep[None, :, None]
    state.hidden.index_copy_(1, rows, torch.where(layers, old.hidden, new.hidden))
    state.cell.index_copy_(1, rows, torch.where(layers, old.cell, new.cell))
    state.predicted.index_copy_(0, rows, torch.where(keep[:, None], old.predicted, new.predicted))
    state.skip.index_copy_(0, rows, torch.where(keep, old.skip, new.skip))


def _taken(encoded: Tensor, rows: Tensor, offset: Tensor, count: int) -> Tensor:
    """``count`` frames of each of ``rows`` from its offset on; what lies past the window is not read."""
    time = encoded.shape[1]
    at = (offset[:, None] + torch.arange(count, device=offset.device)).clamp(max=time - 1)
    flat = (at + rows[:, None] * time).flatten()
    return encoded.reshape(-1, encoded.shape[2]).index_select(0, flat).view(len(rows), count, -1)


def _packed(tokens: Tokens) -> Tensor:
    """Int32 ``[B, 1 + 4U]``: the count, then the rows of the table."""
    return torch.cat((tokens.count.to(torch.int32)[:, None], tokens.table.flatten(1)), dim=1)


def _listed(
    parts: Sequence[Round], wanted: Sequence[int], found: Tensor, after: Tensor | None
) -> list[Heard]:
    """Bring both results to the host in one transfer and give each stream its own."""
    rows = len(parts)
    if after is None:
        committed = _tokens(found.cpu().numpy(), np.array([part.first for part in parts]))
        return [Heard(tokens, []) for tokens in committed]
    both = torch.cat((found.flatten(), after.flatten())).cpu().numpy()
    split = found.numel()
    first = np.array([part.first for part in parts])
    committed = _tokens(both[:split].reshape(rows, -1), first)
    behind = np.array([parts[index].first + parts[index].commit for index in wanted])
    tails = _tokens(both[split:].reshape(len(wanted), -1), behind)
    heard = [Heard(tokens, []) for tokens in committed]
    for index, tail in zip(wanted, tails, strict=True):
        if parts[index].final:
            heard[index] = Heard(committed[index] + tail, [])
        else:
            heard[index] = Heard(committed[index], tail)
    return heard


def _tokens(packed: NDArray[np.int32], first: NDArray[np.int64]) -> list[list[Token]]:
    """The rows of `_packed` as tokens, with frames from the start of the stream."""
    counts = packed[:, 0]
    table = packed[:, 1:].reshape(len(packed), -1, 4)
    kept = np.arange(table.shape[1]) < counts[:, None]
    rows = table[kept]
    frames = rows[:, 1] + np.repeat(first, counts)
    confidence = np.ascontiguousarray(rows[:, 3]).view(np.float32)
    flat = list(
        zip(rows[:, 0].tolist(), frames.tolist(), rows[:, 2].tolist(), confidence.tolist(), strict=True)
    )
    stops = np.cumsum(counts).tolist()
    return [
        flat[stop - count : stop] if count else [] for stop, count in zip(stops, counts.tolist(), strict=True)
    ]


class _CtcRuns:
    """Greedy CTC of streams: equal labels in a row are one token, also across the edge of a chunk.

    A token is committed once its run has ended, since its confidence is the mean over the run. A run that was
    committed earlier, at a forced end, stays open with a negative frame, so that it is not heard twice.
    """

    def __init__(self, head: CtcHead, places: int) -> None:
        self._head = head
        self._open: list[Token | None] = [None] * places

    def tokens(
        self, encoded: Tensor, offset: Tensor, parts: Sequence[Round], wanted: set[int]
    ) -> list[Heard]:
        labels, certainty = self._head.labels(encoded)
        begins = offset.tolist()
        bits = certainty.contiguous().view(torch.int32)
        both = torch.stack((labels.to(torch.int32), bits)).cpu().numpy()
        texts, sure = both[0].tolist(), np.ascontiguousarray(both[1]).view(np.float32).tolist()
        heard: list[Heard] = []
        runs: list[Token | None] = []
        for row, part in enumerate(parts):
            run = None if part.fresh else self._open[part.slot]
            begin = begins[row]
            middle, base = begin + part.commit, part.first - begin
            committed, run = self._runs(texts[row], sure[row], begin, middle, base, run)
            tail: list[Token] = []
            if row in wanted or part.final:
                tail, last = self._runs(texts[row], sure[row], middle, middle + part.tail, base, run)
                tail += _ended(last)
                if part.final:
                    committed, tail = committed + tail, []
                    run = None if last is None else (last[0], -1, 1, 0.0)
            heard.append(Heard(committed, tail))
            runs.append(run)
        for part, run in zip(parts, runs, strict=True):
            self._open[part.slot] = run
        return heard

    def _runs(
        self, labels: list[int], sure: list[float], begin: int, end: int, base: int, run: Token | None
    ) -> tuple[list[Token], Token | None]:
        """Runs that end in frames ``begin`` to ``end``, and the open one; its confidence is a sum."""
        found: list[Token] = []
        for at in range(begin, end):
            label = labels[at]
            if run is not None and label == run[0]:
                run = (label, run[1], run[2] + 1, run[3] + sure[at])
                continue
            found += _ended(run)
            run = None if label == self._head.blank else (label, base + at, 1, sure[at])
        return found, run


def _ended(run: Token | None) -> list[Token]:
    """A run's token, with the mean of its confidences for their sum."""
    return [] if run is None or run[1] < 0 else [(run[0], run[1], run[2], run[3] / run[2])]
