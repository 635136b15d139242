"""One live stream at a Riva server: a call that stays open, asked and answered chunk by chunk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, Final

import grpc
import grpc.aio
from riva.client.proto.riva_asr_pb2 import StreamingRecognizeRequest, StreamingRecognizeResponse

from orchestrator.client.engines import riva_messages as messages
from orchestrator.client.stream.codec import WireChunk
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import RecognizedWord
from orchestrator.engines.spread import CONFIDENCE
from orchestrator.engines.streaming import StreamSegment, StreamUpdate

_PATIENCE_S: Final = 0.5
"""How long the answer to a message is waited for; a server need not answer each."""
_IMPATIENCE_S: Final = 0.01
"""The same, of a server that left one unanswered."""
_QUIET_MS: Final = 30_000
"""Where nothing was said for so long, the audio before its last third is final: it holds no words."""
_FORCE_END: Final = "force_eou"


class RivaResults:
    """Turns a stream's responses into updates: pure. Finals are numbered; times are the server's."""

    def __init__(self, language: str) -> None:
        """Begin a stream; ``language`` is the primary tag that was asked for, or empty."""
        self._language = language
        self._utterance = 0
        self._final_ms = 0
        self._processed_ms = 0
        self._waiting = False
        """A partial was told whose final is to come."""

    def take(
        self, responses: Sequence[StreamingRecognizeResponse], sent_ms: int, *, ended: bool = False
    ) -> StreamUpdate:
        """What some responses changed, after ``sent_ms`` of audio; ``ended``: they were the last."""
        finals: list[StreamSegment] = []
        partial: StreamSegment | None = None
        for response in responses:
            best = [(one, one.alternatives[0]) for one in response.results if one.alternatives]
            self._language = messages.spoken_language(one for _, one in best) or self._language
            processed = [int(one.audio_processed * 1000) for one, _ in best]
            self._processed_ms = min(max([self._processed_ms, *processed]), sent_ms)
            for result, alternative in best:
                if result.is_final:
                    words = tuple(self._words([alternative], sent_ms))
                    finals.append(StreamSegment(self._utterance, words, True, 1.0))
                    self._utterance += 1
                    self._final_ms = max([self._final_ms, *(word.end_ms for word in words)])
                    partial, self._waiting = None, False
            # What is not final yet comes in parts, more and less stable, that follow each other.
            open_parts = [(one, alternative) for one, alternative in best if not one.is_final]
            if open_parts:
                words = tuple(self._words([part for _, part in open_parts], sent_ms))
                stability = min(max(0.0, min(one.stability for one, _ in open_parts)), 1.0)
                partial = StreamSegment(self._utterance, words, False, stability)
                self._waiting = bool(words)
        if ended:
            self._processed_ms = self._final_ms = sent_ms
            partial = None
        elif not self._waiting and sent_ms - self._final_ms > _QUIET_MS:
            self._final_ms = sent_ms - _QUIET_MS // 3
        self._processed_ms = max(self._processed_ms, self._final_ms)
        segments = (*finals, partial) if partial is not None else tuple(finals)
        return StreamUpdate(tuple(segments), self._processed_ms, self._final_ms, self._language)

    def _words(self, alternatives: Sequence[Any], sent_ms: int) -> Iterator[RecognizedWord]:
        """Words with times, from the last final on; those without share the time since then by letters."""
        last = self._final_ms
        words = [word for one in alternatives for word in messages.timed(one)]
        if not words:
            texts = [text for one in alternatives for text in one.transcript.split()]
            edges = [0, *accumulate(map(len, texts))]
            length = max(0, max(self._processed_ms or sent_ms, last) - last)
            words = [
                RecognizedWord(
                    text, last + length * begin // edges[-1], last + length * end // edges[-1], CONFIDENCE
                )
                for text, (begin, end) in zip(texts, pairwise(edges), strict=True)
            ]
        for word in words:
            start = min(max(last, word.start_ms), sent_ms)
            end = min(max(start, word.end_ms), sent_ms)
            yield RecognizedWord(word.text, start, end, word.confidence)
            last = start


class RivaStream:
    """One open StreamingRecognize; errors of the call are gRPC's own."""

    def __init__(self, call: Any, results: RivaResults) -> None:
        """Read the answers of ``call``, whose first message was not sent yet."""
        self._call = call
        self._results = results
        self._sent = 0
        self._asked = 0
        self._answered = 0
        self._answers: list[StreamingRecognizeResponse] = []
        self._news = asyncio.Event()
        self._ended = False
        self._error: grpc.aio.AioRpcError | None = None
        self._reader = asyncio.create_task(self._read())

    async def open(self, first: StreamingRecognizeRequest) -> None:
        """Send the configuration.

        Raises:
            AioRpcError: the call failed.
        """
        await self._write(first)

    async def hear(self, chunk: WireChunk) -> StreamUpdate:
        """Send a chunk; what the server has said since.

        Raises:
            AioRpcError: the call failed.
        """
        self._sent += len(chunk.samples)
        options = chunk.options
        request = StreamingRecognizeRequest(audio_content=chunk.samples.astype("<i2").tobytes())
        if options is not None and options.force_end_of_utterance:
            request.runtime_config[_FORCE_END] = "true"
        if len(chunk.samples) or options is not None or not chunk.end:
            await self._write(request)
            self._asked += 1
        if chunk.end:
            if not self._ended:
                await self._call.done_writing()
            await asyncio.shield(self._reader)
        else:
            await self._answer()
        if self._error is not None:
            raise self._error
        answers, self._answers = self._answers, []
        sent_ms = self._sent * 1000 // SAMPLE_RATE_HZ
        return self._results.take(answers, sent_ms, ended=chunk.end)

    async def close(self) -> None:
        """End the call here and at the server. Safe to call again."""
        self._call.cancel()
        self._reader.cancel()
        await asyncio.wait({self._reader})

    async def _write(self, message: StreamingRecognizeRequest) -> None:
        try:
            await self._call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            # The call is over; why, its end says better than the write does.
            await asyncio.shield(self._reader)
            if self._error is not None:
                raise self._error from error
            raise

    async def _answer(self) -> None:
        """Wait for the answer to the last message, as long as the server answers each."""
        patience_s = _PATIENCE_S if self._answered >= self._asked - 1 else _IMPATIENCE_S
        try:
            async with asyncio.timeout(patience_s):
                while self._answered < self._asked and not self._ended:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return

    async def _read(self) -> None:
        try:
            while (answer := await self._call.read()) is not grpc.aio.EOF:
                self._answers.append(answer)
                self._answered += 1
                self._news.set()
            if (code := await self._call.code()) is not grpc.StatusCode.OK:
                self._error = grpc.aio.AioRpcError(
                    code, grpc.aio.Metadata(), grpc.aio.Metadata(), await self._call.details()
                )
        except grpc.aio.AioRpcError as error:
            self._error = error
        finally:
            self._ended = True
            self._news.set()
