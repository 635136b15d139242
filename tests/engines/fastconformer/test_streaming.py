"""Streams in a pool against the same recordings decoded at once.

The network is a real head on an encoder whose frames depend on their own audio alone, so that the windows
change nothing and every token of a stream has to be the recording's.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.engines.base import RecognizedWord
from orchestrator.engines.endpointing import EndpointingOptions
from orchestrator.engines.fastconformer.config import HeadConfig
from orchestrator.engines.fastconformer.heads import CtcHead, DecoderState, Tokens, TransducerHead
from orchestrator.engines.fastconformer.rounds import Geometry
from orchestrator.engines.fastconformer.streaming import StreamPool
from orchestrator.engines.nemo_words import Vocabulary, ctc_tokens, transducer_tokens, words
from orchestrator.engines.parakeet_streaming import ParakeetStreaming
from orchestrator.engines.streaming import Chunk, StreamOptions, StreamSegment, StreamUpdate
from orchestrator.engines.streaming_presets import Contexts
from orchestrator.errors import (
    AudioValueError,
    InferenceError,
    InvalidRequestError,
    StreamLimitError,
    UnsupportedLanguageError,
)

torch.set_num_threads(1)

WIDTH = 8
HOP, SUBSAMPLING = 160, 8
BLOCK = HOP * SUBSAMPLING
PIECES = ("\u2581a", "\u2581be", "ll", "o", "\u2581c", ".", "\u2581d")
VOCABULARY = Vocabulary(PIECES, marks=frozenset("."))
KINDS = ("tdt", "rnnt", "ctc")
NEVER = StreamOptions(endpointing=EndpointingOptions(stop_history_ms=600_000, max_utterance_s=120))


class Local:
    """In the place of `Compute`: the first samples of a block are its encoder frame."""

    def __init__(self, kind: str, *, seed: int = 1) -> None:
        torch.manual_seed(seed)
        config = HeadConfig(
            kind=kind,  # type: ignore[arg-type]
            vocabulary=len(PIECES),
            durations=(0, 1, 2, 4) if kind == "tdt" else (),
            prediction_width=6,
            prediction_layers=2,
            joint_width=8,
            max_symbols=3,
        )
        self.head: Any = CtcHead(WIDTH, config) if kind == "ctc" else TransducerHead(WIDTH, config)
        self.head.eval().requires_grad_(False)
        self.head.out.weight.mul_(8)
        if kind != "ctc":
            self.head.embedding.weight[len(PIECES)] = 0
        self.network = SimpleNamespace(head=self.head, config=SimpleNamespace(head=config, frame_ms=80.0))
        self.device = torch.device("cpu")
        self.batches: list[int] = []
        self.fails_above = 1000
        self.broken = False

    def encode(self, audio: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.broken:
            raise RuntimeError("device lost")
        if len(audio) > self.fails_above:
            raise torch.OutOfMemoryError("no room")
        self.batches.append(len(audio))
        inside = torch.arange(audio.shape[1]) < lengths[:, None]
        blocks = audio.where(inside, torch.nan).view(len(audio), -1, BLOCK)
        return blocks[:, :, :WIDTH].nan_to_num(0.0), -(-lengths // BLOCK)

    def decode(
        self, encoded: torch.Tensor, frames: torch.Tensor, state: DecoderState
    ) -> tuple[Tokens, DecoderState]:
        found: tuple[Tokens, DecoderState] = self.head.decode(encoded, frames, state)
        return found

    def release(self) -> None:
        pass


def recording(seed: int, frames: int, *, cut: int = 0) -> np.ndarray:
    """So many frames that mean something, less ``cut`` samples."""
    blocks = np.zeros((frames, BLOCK), dtype=np.float32)
    blocks[:, :WIDTH] = 2 * np.random.default_rng(seed).standard_normal((frames, WIDTH))
    return blocks.ravel()[: frames * BLOCK - cut]


def offline(local: Local, audio: np.ndarray) -> tuple[RecognizedWord, ...]:
    count = -(-(audio.size // HOP) // SUBSAMPLING)
    if count == 0:
        return ()
    padded = np.zeros(count * BLOCK, dtype=np.float32)
    padded[: min(audio.size, padded.size)] = audio[: padded.size]
    encoded = torch.from_numpy(padded.reshape(1, count, BLOCK)[:, :, :WIDTH].copy())
    lengths = torch.tensor([count])
    kind = local.head.config.kind if not isinstance(local.head, CtcHead) else "ctc"
    if kind == "ctc":
        labels, sure = local.head.labels(encoded)
        batch = ctc_tokens(labels.numpy(), sure.numpy(), lengths.numpy(), len(PIECES), VOCABULARY)
    else:
        found, _ = local.head.decode(encoded, lengths)
        keep = slice(0, int(found.count[0]))
        ids, frames, lasts = (
            part[0, keep].long().numpy() for part in (found.ids, found.frames, found.durations)
        )
        batch = transducer_tokens(
            found.count.numpy(),
            ids,
            frames,
            lasts if kind == "tdt" else None,
            found.confidence[0, keep].numpy(),
            VOCABULARY,
        )
    return words(batch, VOCABULARY, 80.0)[0]


def engine(
    local: Local,
    geometry: tuple[int, int, int] = (6, 2, 3),
    *,
    streams: int = 4,
    max_batch: int | None = None,
) -> ParakeetStreaming:
    left, chunk, right = geometry
    pool = StreamPool(
        local,  # type: ignore[arg-type]
        Geometry(left, chunk, right, HOP, SUBSAMPLING),
        streams,
        max_batch or streams,
    )
    contexts = Contexts(chunk_ms=80 * chunk, left_ms=80 * left, right_ms=80 * right)
    return ParakeetStreaming(pool, VOCABULARY, contexts, ("en", "de"), streams)


class Caption:
    """What a client knows of one stream; it fails where the updates contradict themselves."""

    def __init__(self) -> None:
        self.finals: list[StreamSegment] = []
        self.partial: StreamSegment | None = None
        self.final_ms = self.processed_ms = 0

    def take(self, update: StreamUpdate) -> None:
        for segment in update.segments:
            assert segment.utterance == len(self.finals)
            if segment.final:
                assert segment.words
                self.finals.append(segment)
            else:
                assert segment is update.segments[-1]
                self.partial = segment
        assert self.final_ms <= update.final_ms <= update.processed_ms
        assert self.processed_ms <= update.processed_ms
        self.final_ms, self.processed_ms = update.final_ms, update.processed_ms

    @property
    def words(self) -> tuple[RecognizedWord, ...]:
        return tuple(word for segment in self.finals for word in segment.words)


def same(found: Sequence[RecognizedWord], wanted: Sequence[RecognizedWord]) -> None:
    assert [(w.text, w.start_ms, w.end_ms) for w in found] == [(w.text, w.start_ms, w.end_ms) for w in wanted]
    assert [w.confidence for w in found] == pytest.approx([w.confidence for w in wanted], abs=1e-5)


def heard(
    target: ParakeetStreaming, audio: np.ndarray, sizes: Sequence[int], options: StreamOptions
) -> Caption:
    """One stream alone, its audio cut into ``sizes`` and the rest."""
    stream, caption, begin = target.open(options), Caption(), 0
    for size in sizes:
        caption.take(target.step([Chunk(stream, audio[begin : begin + size])])[0])
        begin = min(begin + size, audio.size)
    caption.take(target.step([Chunk(stream, audio[begin:], last=True)])[0])
    return caption


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    frames=st.integers(0, 40),
    cut=st.integers(0, BLOCK),
    geometry=st.tuples(st.integers(0, 6), st.integers(1, 5), st.integers(0, 5)),
    sizes=st.lists(st.integers(0, 6 * BLOCK), max_size=10),
)
def test_a_stream_says_what_the_recording_says(
    kind: str, seed: int, frames: int, cut: int, geometry: tuple[int, int, int], sizes: list[int]
) -> None:
    local = Local(kind)
    audio = recording(seed, frames, cut=min(cut, frames * BLOCK))
    caption = heard(engine(local, geometry), audio, sizes, NEVER)
    same(caption.words, offline(local, audio) if audio.size >= 2 * HOP else ())
    assert caption.processed_ms == caption.final_ms == audio.size // 16


@st.composite
def schedules(draw: st.DrawFn) -> list[list[tuple[int, int]]]:
    """Of each step, which streams send how many samples; a stream ends at random."""
    return draw(
        st.lists(
            st.dictionaries(st.integers(0, 5), st.integers(0, 7 * BLOCK), max_size=6).map(
                lambda step: list(step.items())
            ),
            min_size=1,
            max_size=25,
        )
    )


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(
    schedule=schedules(),
    seed=st.integers(0, 1000),
    ends=st.sets(st.tuples(st.integers(0, 24), st.integers(0, 5))),
    forces=st.sets(st.tuples(st.integers(0, 24), st.integers(0, 5))),
    max_batch=st.integers(1, 6),
    fails_above=st.integers(1, 6),
    stop_ms=st.sampled_from((240, 800, 600_000)),
)
def test_streams_that_come_go_and_pause_are_not_mixed(
    kind: str,
    schedule: list[list[tuple[int, int]]],
    seed: int,
    ends: set[tuple[int, int]],
    forces: set[tuple[int, int]],
    max_batch: int,
    fails_above: int,
    stop_ms: int,
) -> None:
    local = Local(kind)
    local.fails_above = fails_above
    target = engine(local, streams=6, max_batch=max_batch)
    options = StreamOptions(endpointing=EndpointingOptions(stop_history_ms=stop_ms))
    open_now: dict[int, tuple[int, Caption, list[np.ndarray]]] = {}
    closed: list[tuple[Caption, np.ndarray]] = []
    opened = 0
    for number, step in enumerate([*schedule, [(name, 0) for name in range(6)]]):
        last = number == len(schedule)
        chunks: list[Chunk] = []
        for name, size in step:
            if name not in open_now:
                open_now[name] = (target.open(options), Caption(), [])
                opened += 1
            stream, _, parts = open_now[name]
            parts.append(recording(seed + 97 * number + name, -(-size // BLOCK), cut=-size % BLOCK))
            chunks.append(Chunk(stream, parts[-1], last or (number, name) in ends, (number, name) in forces))
        for (name, _), chunk, update in zip(step, chunks, target.step(chunks), strict=True):
            _, caption, parts = open_now[name]
            caption.take(update)
            if chunk.last:
                closed.append((caption, np.concatenate(parts)))
                del open_now[name]
    assert len(closed) == opened
    for caption, audio in closed:
        wanted = offline(local, audio) if audio.size >= 2 * HOP else ()
        if stop_ms == 600_000 and not forces:
            same(caption.words, wanted)
        elif not forces:
            # An utterance may end within a word, and a mark that comes later is left out.
            letters = ["".join(w.text for w in said).replace(".", "") for said in (caption.words, wanted)]
            assert letters[0] == letters[1]
    assert sorted(target._free) == list(range(6))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 100), force_at=st.integers(0, 20))
def test_a_forced_end_in_whole_frames_loses_and_repeats_nothing(seed: int, force_at: int) -> None:
    for kind in KINDS:
        local = Local(kind)
        audio = recording(seed, 30)
        target = engine(local)
        stream, caption = target.open(NEVER), Caption()
        edge = force_at * BLOCK
        caption.take(target.step([Chunk(stream, audio[:edge], force_end_of_utterance=True)])[0])
        assert caption.final_ms == caption.processed_ms == edge // 16
        same(caption.words, offline(local, audio[:edge]) if kind != "ctc" else caption.words)
        caption.take(target.step([Chunk(stream, audio[edge:], last=True)])[0])
        letters = [
            "".join(w.text for w in said).replace(".", "") for said in (caption.words, offline(local, audio))
        ]
        assert letters[0] == letters[1]


def test_all_ready_streams_are_one_batch() -> None:
    local = Local("tdt")
    target = engine(local, streams=3)
    streams = [target.open() for _ in range(3)]
    target.step([Chunk(stream, recording(stream, 5)) for stream in streams])
    assert local.batches == [3]
    target.step([Chunk(streams[0], recording(1, 6)), Chunk(streams[1], recording(1, 2))])
    assert local.batches == [3, 2, 1, 1]


def test_tentative_tokens_are_shown_to_those_who_want_partials_only() -> None:
    local = Local("tdt")
    target = engine(local, (6, 2, 4))
    audio = recording(3, 40)
    stream = target.open(NEVER)
    update = target.step([Chunk(stream, audio[: 6 * BLOCK])])[0]
    assert update.processed_ms == 480
    (partial,) = update.segments
    same(partial.words, offline(local, audio[: 6 * BLOCK]))
    assert not partial.final
    quiet = target.open(NEVER.model_copy(update={"partials": False}))
    assert target.step([Chunk(quiet, audio[: 6 * BLOCK])])[0].segments == ()


def test_a_reused_place_remembers_nothing() -> None:
    for kind in KINDS:
        local = Local(kind)
        target = engine(local, streams=1)
        first, second = recording(1, 33), recording(2, 33)
        alone = heard(engine(local, streams=1), second, [BLOCK] * 9, NEVER)
        stream = target.open(NEVER)
        target.step([Chunk(stream, first)])
        target.abort(stream)
        target.abort(stream)
        assert heard(target, second, [BLOCK] * 9, NEVER).finals == alone.finals


def test_ten_thousand_aborted_streams_leave_the_pool_as_it_was() -> None:
    target = engine(Local("tdt"), streams=8)
    chunk = recording(1, 1)
    before = {name: value.data_ptr() for name, value in _tensors(target).items()}
    for number in range(10_000):
        stream = target.open()
        if number % 100 == 0:
            target.step([Chunk(stream, chunk)])
        target.abort(stream)
    assert sorted(target._free) == list(range(8))
    assert not target._streams
    assert {name: value.data_ptr() for name, value in _tensors(target).items()} == before


def _tensors(target: ParakeetStreaming) -> dict[str, torch.Tensor]:
    pool = target._pool
    return {"audio": pool._audio, "hidden": pool._state.hidden, "staging": pool._staging}


def test_one_stream_too_many_is_refused_and_the_others_go_on() -> None:
    target = engine(Local("tdt"), streams=2)
    first, _ = target.open(), target.open()
    with pytest.raises(StreamLimitError, match="All 2 streams"):
        target.open()
    target.step([Chunk(first, recording(1, 3), last=True)])
    assert target.open() not in (first,)


def test_wrong_options_are_refused() -> None:
    target = engine(Local("tdt"))
    with pytest.raises(UnsupportedLanguageError, match="'fr-FR'"):
        target.open(StreamOptions(language="fr-FR"))
    with pytest.raises(InvalidRequestError, match="8000 Hz"):
        target.open(StreamOptions(sample_rate_hz=8000))
    assert len(target._free) == 4
    assert (
        target.step([Chunk(target.open(StreamOptions(language="de-DE")), recording(1, 0))])[0].language
        == "de"
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_change_nothing(bad: float) -> None:
    local = Local("tdt")
    target = engine(local)
    good, wrong = target.open(NEVER), target.open(NEVER)
    audio = recording(1, 12)
    broken = audio.copy()
    broken[7] = bad
    with pytest.raises(AudioValueError, match=f"stream {wrong}"):
        target.step([Chunk(good, audio), Chunk(wrong, broken)])
    caption = Caption()
    caption.take(target.step([Chunk(good, audio, last=True)])[0])
    same(caption.words, offline(local, audio))


def test_a_fault_of_the_caller_is_told_before_anything_is_done() -> None:
    target = engine(Local("tdt"))
    stream = target.open()
    with pytest.raises(ValueError, match="twice"):
        target.step([Chunk(stream, recording(1, 1)), Chunk(stream, recording(1, 1))])
    with pytest.raises(ValueError, match="not open"):
        target.step([Chunk(99, recording(1, 1))])
    with pytest.raises(AudioValueError, match="float64"):
        target.step([Chunk(stream, np.zeros(3))])  # type: ignore[arg-type]
    assert target.step([]) == []


def test_a_failure_closes_the_streams_of_the_step_only() -> None:
    local = Local("tdt")
    target = engine(local)
    bystander, victim = target.open(NEVER), target.open(NEVER)
    audio = recording(5, 20)
    caption = Caption()
    caption.take(target.step([Chunk(bystander, audio[: 9 * BLOCK])])[0])
    local.broken = True
    with pytest.raises(InferenceError, match="device lost"):
        target.step([Chunk(victim, recording(1, 9))])
    local.broken = False
    with pytest.raises(ValueError, match="not open"):
        target.step([Chunk(victim, recording(1, 9))])
    caption.take(target.step([Chunk(bystander, audio[9 * BLOCK :], last=True)])[0])
    same(caption.words, offline(local, audio))
    assert len(target._free) == 4
