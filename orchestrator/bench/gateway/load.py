"""Real-time streams in Riva's protocol, sent as `orchestrator.bench.streams.load` sends them to Triton."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
from riva.client.proto.riva_asr_pb2 import (
    RecognitionConfig,
    StreamingRecognitionConfig,
    StreamingRecognizeRequest,
)

from orchestrator.bench.streams.figures import ChunkTimes
from orchestrator.bench.streams.load import (
    ANSWER_LIMIT_S,
    CHANNEL_OPTIONS,
    STREAMS_PER_CHANNEL,
    Load,
    Outcome,
)
from orchestrator.contract import SAMPLE_RATE_HZ

_METHOD: Final = "/nvidia.riva.asr.RivaSpeechRecognition/StreamingRecognize"


@dataclass(frozen=True, slots=True)
class RivaLoad(Load):
    """What one process sends to a gateway; ``url`` is that of its Riva service."""

    def clients(self) -> RivaClients:
        """See `Load.clients`."""
        return RivaClients(self)


class RivaClients:
    """The channels and streams of one process."""

    def __init__(self, load: RivaLoad) -> None:
        self._load = load
        size = load.chunk_ms * SAMPLE_RATE_HZ // 1000
        samples = np.tile(load.samples, -(-size // max(len(load.samples), 1)))
        self._audio = [
            StreamingRecognizeRequest(
                audio_content=samples[begin : begin + size].tobytes()
            ).SerializeToString()
            for begin in range(0, len(samples) - size + 1, size)
        ]
        config = RecognitionConfig(
            encoding="LINEAR_PCM",
            sample_rate_hertz=SAMPLE_RATE_HZ,
            audio_channel_count=1,
            language_code="en",
            model=load.model,
            enable_automatic_punctuation=True,
        )
        self._config = StreamingRecognizeRequest(
            streaming_config=StreamingRecognitionConfig(config=config, interim_results=True)
        ).SerializeToString()
        count = -(-len(load.streams) // STREAMS_PER_CHANNEL)
        self._channels = [grpc.aio.insecure_channel(load.url, options=CHANNEL_OPTIONS) for _ in range(count)]
        self._rows: list[tuple[float, float, float]] = []
        self._outcome = Outcome(ChunkTimes.joined([]))

    async def connect(self) -> None:
        """Open the connections."""
        await asyncio.gather(*(channel.channel_ready() for channel in self._channels))

    async def run(self, start: float) -> Outcome:
        """Send all chunks; ``start`` is on the clock of `time.monotonic`, which processes share."""
        calls = [method(channel) for channel in self._channels]
        async with asyncio.TaskGroup() as group:
            for place, stream in enumerate(self._load.streams):
                group.create_task(self._noted(stream, calls[place % len(calls)], start))
        for channel in self._channels:
            await channel.close()
        table = np.array(self._rows, np.float64).reshape(-1, 3) - start
        self._outcome.times = ChunkTimes(*table.T.copy())
        return self._outcome

    async def _noted(self, stream: int, begin: Callable[[], Any], start: float) -> None:
        try:
            await self._stream(stream, begin, start)
        except grpc.aio.AioRpcError as error:
            kind = error.code().name
            self._outcome.errors[kind] += 1
            self._outcome.messages.setdefault(kind, error.details() or "")
        except TimeoutError:
            self._outcome.errors["no answer"] += 1

    async def _stream(self, stream: int, begin_call: Callable[[], Any], start: float) -> None:
        load = self._load
        chunk_s = load.chunk_ms / 1000
        begin = load.ramp_s * stream / load.total
        count = max(2, int((load.seconds - begin) / chunk_s))
        # A prime number of chunks apart, so that neighbours do not say the same thing at the same time.
        place = stream * 7919 % len(self._audio)
        await asyncio.sleep(start + begin - time.monotonic())
        call = begin_call()
        await call.write(self._config)
        for number in range(count):
            request = self._audio[(place + number) % len(self._audio)]
            due = start + begin + (number + 1) * chunk_s
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            sent = time.monotonic()
            await call.write(request)
            async with asyncio.timeout(ANSWER_LIMIT_S):
                answer = await call.read()
            if answer is grpc.aio.EOF:
                break
            self._rows.append((due, sent, time.monotonic()))
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass
        code = await call.code()
        if code is not grpc.StatusCode.OK:
            self._outcome.errors[code.name] += 1
            self._outcome.messages.setdefault(code.name, await call.details() or "")


def method(channel: grpc.aio.Channel) -> Callable[[], Any]:
    """StreamingRecognize with messages as bytes."""
    call: Any = channel.stream_stream(_METHOD)
    return call  # type: ignore[no-any-return]
