"""A streaming engine without a network: every chunk that is not empty becomes one word, its first sample.

The tests of the server put it in the place of a real engine. A chunk that begins with `POISON` makes the step
fail for all.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.engines.base import EngineSource, RecognizedWord
from orchestrator.engines.streaming import (
    Chunk,
    StreamingInfo,
    StreamingRecognizer,
    StreamOptions,
    StreamSegment,
    StreamUpdate,
)
from orchestrator.errors import (
    InferenceError,
    InvalidRequestError,
    StreamLimitError,
    UnsupportedLanguageError,
)

POISON = -32_768


class _State:
    def __init__(self) -> None:
        self.samples = 0
        self.utterance = 0
        self.final_ms = 0
        self.words: list[RecognizedWord] = []


class EchoStreaming(StreamingRecognizer):
    """Says what it hears."""

    def __init__(self, max_streams: int = 4, chunk_ms: int = 560) -> None:
        self.info = StreamingInfo("echo", ("en",), chunk_ms, 0, 0, max_streams)
        self.streams: dict[int, _State] = {}
        self.steps: list[int] = []
        """How many chunks each step had."""
        self.closed = False
        self._next = 0

    def open(self, options: StreamOptions | None = None) -> int:
        options = options or StreamOptions()
        if options.sample_rate_hz != 16_000:
            raise InvalidRequestError(f"{options.sample_rate_hz} Hz is not 16000 Hz")
        if options.language not in (None, "en"):
            raise UnsupportedLanguageError(f"no {options.language}")
        if len(self.streams) == self.info.max_streams:
            raise StreamLimitError("full")
        self._next += 1
        self.streams[self._next] = _State()
        return self._next

    def step(self, chunks: Sequence[Chunk]) -> list[StreamUpdate]:
        numbers = [chunk.stream for chunk in chunks]
        if len(set(numbers)) < len(numbers) or not self.streams.keys() >= set(numbers):
            raise ValueError(f"{numbers} of {list(self.streams)}")
        self.steps.append(len(chunks))
        if any(chunk.samples.size and round(chunk.samples[0] * 32_768) == POISON for chunk in chunks):
            for number in numbers:
                del self.streams[number]
            raise InferenceError("poison")
        return [self._hear(chunk) for chunk in chunks]

    def _hear(self, chunk: Chunk) -> StreamUpdate:
        state = self.streams[chunk.stream]
        start_ms = state.samples // 16
        state.samples += chunk.samples.size
        now_ms = state.samples // 16
        if chunk.samples.size:
            text = str(round(chunk.samples[0] * 32_768))
            state.words.append(RecognizedWord(text, start_ms, now_ms, 0.5))
        final = chunk.last or chunk.force_end_of_utterance
        segments: tuple[StreamSegment, ...] = ()
        if state.words and (final or chunk.samples.size):
            segment = StreamSegment(state.utterance, tuple(state.words), final, 1.0 if final else 0.25)
            segments = (segment,)
        if final:
            state.utterance += bool(state.words)
            state.words, state.final_ms = [], now_ms
        if chunk.last:
            del self.streams[chunk.stream]
        return StreamUpdate(segments, now_ms, state.final_ms, "en")

    def abort(self, stream: int) -> None:
        self.streams.pop(stream, None)

    def close(self) -> None:
        self.closed = True


def load_streaming(_name: str, source: EngineSource) -> EchoStreaming:
    """In the place of `orchestrator.engines.load_streaming`."""
    return EchoStreaming(source.options["max_streams"], source.options.get("chunk_ms", 560))
