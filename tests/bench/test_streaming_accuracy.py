"""What a client of a stream sees, from a stub of the engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from orchestrator.bench.recordings import Recording
from orchestrator.bench.streaming_accuracy import Caption, sets_of, stream
from orchestrator.engines.base import RecognizedWord
from orchestrator.engines.streaming import (
    Chunk,
    StreamingInfo,
    StreamingRecognizer,
    StreamOptions,
    StreamSegment,
    StreamUpdate,
)
from orchestrator.errors import ConfigurationError


class Counting(StreamingRecognizer):
    """Says one word for each 100 ms, shows it at once, and ends an utterance with every fourth."""

    def __init__(self) -> None:
        self.info = StreamingInfo("counting", ("en",), 100, 0, 0, 2)
        self.received: dict[int, int] = {}
        self.most = 0

    def open(self, options: StreamOptions | None = None) -> int:
        self.received[len(self.received)] = 0
        return len(self.received) - 1

    def step(self, chunks: Sequence[Chunk]) -> list[StreamUpdate]:
        self.most = max(self.most, len(chunks))
        return [self._take(chunk) for chunk in chunks]

    def _take(self, chunk: Chunk) -> StreamUpdate:
        before = self.received[chunk.stream] // 1600
        self.received[chunk.stream] += chunk.samples.size
        count = self.received[chunk.stream] // 1600
        first = before // 4 * 4
        said = tuple(RecognizedWord(f"w{k}", 100 * k, 100 * k + 50, 1.0) for k in range(first, count))
        final = chunk.last or (count % 4 == 0 and count > before)
        segments = (StreamSegment(first // 4, said, final, 1.0),) if said else ()
        return StreamUpdate(segments, 100 * count, 0, "en")

    def abort(self, stream: int) -> None:
        self.received.pop(stream, None)


def test_every_word_has_the_time_it_was_shown_at_and_every_utterance_its_end() -> None:
    engine = Counting()
    lengths = (3, 9, 6)
    captions = stream(engine, [np.zeros(1600 * length, dtype=np.float32) for length in lengths])
    assert engine.most == engine.info.max_streams
    assert [len(caption.words) for caption in captions] == list(lengths)
    assert captions[1].text == " ".join(f"w{k}" for k in range(9))
    # A word is shown with the chunk that holds it, 50 ms after its end.
    assert captions[1].shown_ms == (50,) * 9
    assert captions[1].final_ms == (50, 50, 50)


def test_a_stream_without_words_has_an_empty_caption() -> None:
    assert stream(Counting(), [np.zeros(10, dtype=np.float32)]) == [Caption((), (), ())]


def test_recordings_without_references_cannot_be_scored(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigurationError, match="reference"):
        sets_of([Recording(tmp_path / "a.wav", "a")])
