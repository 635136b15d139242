"""NVIDIA Parakeet on live streams: the weights of `parakeet`, with chunks in and words out.

The encoder hears a window of each stream: a chunk, audio before it, and audio after it (`rounds`). All
streams share one shape of window, so that a step is one pass of the network over all streams that have a
chunk. Windows of many seconds give the words of the whole recording; short ones cost accuracy, since the
features are normalised over the window, and gain latency and streams: `streaming_presets`. A cache-aware
checkpoint (`fastconformer.causal`) has a chunk of its own and remembers instead of hearing again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.acoustic import exact_convolutions
from orchestrator.engines.base import EngineSource
from orchestrator.engines.checks import language_in, options_in, primary_tag, reason_of
from orchestrator.engines.fastconformer import loading
from orchestrator.engines.fastconformer.rounds import Feed, Round
from orchestrator.engines.fastconformer.streaming import Heard, StreamPool
from orchestrator.engines.lexicon import Lexicon, Token
from orchestrator.engines.nemo_words import Vocabulary
from orchestrator.engines.parakeet_streaming_setup import (
    NAME,
    contexts_of,
    pool_of,
    vocabulary_of,
)
from orchestrator.engines.stream_speech import StreamSpeech
from orchestrator.engines.streaming import (
    Chunk,
    StreamingInfo,
    StreamingRecognizer,
    StreamOptions,
    StreamSegment,
    StreamUpdate,
)
from orchestrator.engines.streaming_presets import Contexts, ParakeetStreamingOptions
from orchestrator.engines.torch_device import device_of
from orchestrator.engines.utterances import Utterances
from orchestrator.errors import (
    AudioValueError,
    InferenceError,
    InvalidRequestError,
    ModelLoadError,
    StreamLimitError,
)


def load(source: EngineSource) -> ParakeetStreaming:
    """Load the files of `parakeet` from ``source.folder``.

    Raises:
        ModelLoadError: a file is missing, corrupt, or not a checkpoint that this engine runs; or the device
            is not there or has no room.
        ConfigurationError: an unknown or invalid option.
    """
    options = options_in(source, ParakeetStreamingOptions, NAME)
    device = device_of(source.device, "parakeet_streaming")
    if source.threads is not None:
        torch.set_num_threads(source.threads)
    network, description = loading.load(source.folder, device, prefer_ctc=options.head == "ctc")
    contexts = contexts_of(network, options)
    precision = loading.precision_of(options.precision, source.folder, device, description)
    try:
        pool = pool_of(network, device, precision, options, contexts)
    except RuntimeError as error:  # also what torch says when there is no memory
        raise ModelLoadError(
            f"There is no room for {options.max_streams} streams on {device}: {reason_of(error)}",
            fix="lower max_streams, or free memory on the device.",
            model=NAME,
        ) from error
    languages = description.languages or tuple(map(primary_tag, options.languages)) or ("en",)
    return ParakeetStreaming(
        pool, vocabulary_of(description.tokens), contexts, languages, options.max_streams
    )


class _Stream:
    """One stream: its audio on the way to the device, its utterances, and what its caller wants."""

    __slots__ = ("detects", "feed", "language", "partials", "utterances")

    def __init__(
        self, feed: Feed, utterances: Utterances, language: str, *, partials: bool, detects: bool
    ) -> None:
        self.feed = feed
        self.utterances = utterances
        self.language = language
        self.partials = partials
        self.detects = detects


class _Turn:
    """What one step does with one stream."""

    __slots__ = ("ahead", "ends", "finals", "flush", "stream", "tail")

    def __init__(self, stream: _Stream, chunk: Chunk) -> None:
        self.stream = stream
        self.ends = chunk.last
        self.flush = chunk.last or chunk.force_end_of_utterance
        self.finals: list[StreamSegment] = []
        self.tail: list[Token] | None = None
        """Tentative tokens of the last round; None before the first."""
        self.ahead = 0
        """Frames that these are of."""

    def wants_tail(self, part: Round) -> bool:
        """Whether tentative words will be shown after this round: no other follows in the same step."""
        return self.stream.partials and not self.flush and not self.stream.feed.due_after(part)


class ParakeetStreaming(StreamingRecognizer):
    """Parakeet on live streams. Build one with `load`."""

    def __init__(
        self,
        pool: StreamPool,
        vocabulary: Vocabulary,
        contexts: Contexts,
        languages: tuple[str, ...],
        max_streams: int,
    ) -> None:
        self.info = StreamingInfo(
            name=NAME,
            languages=languages,
            chunk_ms=contexts.chunk_ms,
            left_ms=contexts.left_ms,
            right_ms=contexts.right_ms,
            max_streams=max_streams,
        )
        self._pool = pool
        config = pool.compute.network.config
        self._lexicon = Lexicon(vocabulary, config.head.kind, round(config.frame_ms))
        self._speech = StreamSpeech(max_streams, pool.compute.device, pool.geometry.block)
        self._free = list(range(max_streams))[::-1]
        self._streams: dict[int, _Stream] = {}
        self._opened = 0

    def open(self, options: StreamOptions | None = None) -> int:
        """Begin a stream and return its number, which no later stream gets.

        Raises:
            StreamLimitError: ``info.max_streams`` are open.
            UnsupportedLanguageError: the engine does not know the language.
            InvalidRequestError: the sample rate is not 16 kHz.
            MissingDependencyError: voice activity is asked for and its detector is not installed.
            ModelLoadError: the detector's weights are damaged.
        """
        options = options or StreamOptions()
        language = language_in(self.info.languages, options.language, NAME)
        if options.sample_rate_hz != SAMPLE_RATE_HZ:
            raise InvalidRequestError(
                f"Streams of {options.sample_rate_hz} Hz are not taken.",
                fix=f"resample to {SAMPLE_RATE_HZ} Hz before sending.",
                model=NAME,
            )
        if not self._free:
            raise StreamLimitError(
                f"All {self.info.max_streams} streams of {NAME} are in use.",
                fix="try again when one has ended, or raise max_streams.",
                model=NAME,
            )
        detects = options.endpointing.speech_from == "vad"
        if detects:
            self._speech.open(self._free[-1], options.endpointing)
        number = self._opened
        self._opened += 1
        self._streams[number] = _Stream(
            Feed(self._pool.geometry, self._free.pop()),
            Utterances(self._lexicon, options.endpointing),
            language,
            partials=options.partials,
            detects=detects,
        )
        return number

    def step(self, chunks: Sequence[Chunk]) -> list[StreamUpdate]:
        """Take one chunk each of any of the streams, in as few passes as they need, and say what is new.

        Raises:
            AudioValueError: a chunk is not one-dimensional float32 of finite numbers; nothing has changed.
            InferenceError: the model failed; the streams of this step are closed, the others go on.
            ValueError: a stream is not open, or appears twice (a fault of the caller's code).
        """
        streams = self._checked(chunks)
        turns: list[_Turn] = []
        for stream, chunk in zip(streams, chunks, strict=True):
            stream.feed.push(chunk.samples)
            turns.append(_Turn(stream, chunk))
        try:
            heard = [(s.feed.slot, c.samples) for s, c in zip(streams, chunks, strict=True) if s.detects]
            self._speech.push(heard)
            self._run(turns)
        except (RuntimeError, InferenceError) as error:
            for chunk in chunks:
                self.abort(chunk.stream)
            raise InferenceError(
                f"The model {NAME} failed on {len(chunks)} streams: {reason_of(error)}", model=NAME
            ) from error
        updates = [self._update(turn) for turn in turns]
        for chunk in chunks:
            if chunk.last:
                self.abort(chunk.stream)
        return updates

    def abort(self, stream: int) -> None:
        """Forget a stream; nothing where it is not open."""
        found = self._streams.pop(stream, None)
        if found is not None:
            self._free.append(found.feed.slot)

    def close(self) -> None:
        """Free the model; it cannot be used afterwards."""
        self._streams.clear()
        self._free.clear()
        compute = self._pool.compute
        del self._pool
        compute.release()

    def _checked(self, chunks: Sequence[Chunk]) -> list[_Stream]:
        streams: list[_Stream] = []
        for chunk in chunks:
            stream = self._streams.get(chunk.stream)
            if stream is None:
                raise ValueError(f"stream {chunk.stream} is not open")
            samples = chunk.samples
            if samples.ndim != 1 or samples.dtype != np.float32:
                raise AudioValueError(
                    f"A chunk of stream {chunk.stream} is {samples.dtype} of shape {list(samples.shape)}.",
                    fix="pass one-dimensional float32 arrays at 16 kHz.",
                )
            # A sum is not finite where one of its parts is not; it may overflow without, so look again then.
            if not math.isfinite(np.dot(samples, samples)) and not np.isfinite(samples).all():
                raise AudioValueError(
                    f"A chunk of stream {chunk.stream} holds NaN or infinite samples.",
                    fix="decode the audio again.",
                )
            streams.append(stream)
        if len({chunk.stream for chunk in chunks}) != len(chunks):
            raise ValueError("a stream appears twice in one step")
        return streams

    def _run(self, turns: Sequence[_Turn]) -> None:
        """Go on in rounds until no stream has a chunk left."""
        waiting = list(turns)
        while True:
            parts: list[tuple[_Turn, Round]] = []
            for turn in waiting:
                part = turn.stream.feed.round(flush=turn.flush)
                if part is not None:
                    parts.append((turn, part))
            if not parts:
                return
            for group in self._groups(parts):
                for (turn, part), heard in zip(group, self._pass(group), strict=True):
                    stream, frames = turn.stream, _frames(part)
                    stream.feed.done(part)
                    speech = self._speech.take(part.slot, part.first, frames) if stream.detects else None
                    turn.finals += stream.utterances.advance(heard.committed, frames, speech)
                    turn.tail, turn.ahead = heard.tail, part.tail
            waiting = [turn for turn, part in parts if not part.final]

    def _groups(self, parts: Sequence[tuple[_Turn, Round]]) -> Iterator[Sequence[tuple[_Turn, Round]]]:
        size = self._pool.max_batch
        for begin in range(0, len(parts), size):
            yield parts[begin : begin + size]

    def _pass(self, group: Sequence[tuple[_Turn, Round]]) -> list[Heard]:
        """One pass of the network, or two halves where the device has no room for it."""
        try:
            with exact_convolutions():
                return self._pool.step(
                    [part for _, part in group],
                    tails=[turn.wants_tail(part) for turn, part in group],
                )
        except torch.OutOfMemoryError:
            if len(group) == 1:
                raise
            self._pool.compute.release()
        middle = len(group) // 2
        return self._pass(group[:middle]) + self._pass(group[middle:])

    def _update(self, turn: _Turn) -> StreamUpdate:
        stream = turn.stream
        segments = turn.finals
        if turn.flush:
            segments = segments + stream.utterances.end()
        if stream.partials and (turn.tail is not None or turn.flush):
            if turn.tail is not None and not turn.flush:
                speech = self._speech.ahead(stream.feed.slot, turn.ahead) if stream.detects else None
                segments = segments + stream.utterances.foresee(turn.tail, turn.ahead, speech)
            partial = stream.utterances.partial(turn.tail or [])
            if partial is not None:
                segments = [*segments, partial]
        per_ms = SAMPLE_RATE_HZ // 1000
        processed = stream.feed.received if turn.ends else stream.feed.heard
        heard_ms = processed // per_ms
        return StreamUpdate(
            segments=tuple(segments),
            processed_ms=heard_ms,
            final_ms=heard_ms if turn.flush else min(stream.utterances.final_ms, heard_ms),
            language=stream.language,
        )


def _frames(part: Round) -> int:
    """Encoder frames that a round commits."""
    return part.commit + part.tail if part.final else part.commit
