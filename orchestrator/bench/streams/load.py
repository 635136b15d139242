"""Real-time streams of one client process: each sends a chunk whenever its audio would be there.

The schedule is absolute: a late answer makes the next request late, not the audio. Requests are put together
from parts that were serialized before, so that the client does little but wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import grpc
import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2

from orchestrator.bench.streams.figures import ChunkTimes
from orchestrator.client.stream.codec import Pcm16, WireChunk, encode
from orchestrator.contract import SAMPLE_RATE_HZ, STREAM_OPTIONS
from orchestrator.engines.streaming import StreamOptions

STREAMS_PER_CHANNEL: Final = 100
"""HTTP/2 connections share one lock and one flow-control window each."""
ANSWER_LIMIT_S: Final = 30.0
"""A request that takes longer fails."""
_METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
CHANNEL_OPTIONS: Final = (
    # Channels to one address share a connection otherwise.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
)
Call = Callable[..., grpc.aio.UnaryUnaryCall]


class Sender(Protocol):
    """The channels and streams of one process."""

    async def connect(self) -> None:
        """Open the connections."""

    async def run(self, start: float) -> Outcome:
        """Send all chunks; ``start`` is on the clock of `time.monotonic`, which processes share."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one process sends.

    Attributes:
        url: ``host:port`` of the server's gRPC.
        model: the streaming model.
        streams: which of the run's streams are this process's, from 0.
        total: how many the run has.
        first_sequence: the sequence of stream 0; the others count on from there.
        chunk_ms: audio in a chunk, in ms.
        ramp_s: streams begin evenly within this time, so that they come at all phases of a chunk.
        seconds: from the start of the run to its end; a stream's last chunk is due before.
        samples: the recording that all streams say over and over, each from another place.
        connect_limit_s: how long connecting may take.
    """

    url: str
    model: str
    streams: tuple[int, ...]
    total: int
    first_sequence: int
    chunk_ms: int
    ramp_s: float
    seconds: float
    samples: Pcm16
    connect_limit_s: float = 30.0

    def clients(self) -> Sender:
        """Those that send it."""
        return Clients(self)


@dataclass(slots=True)
class Outcome:
    """What came of it.

    Attributes:
        times: of each answer.
        errors: failed requests by gRPC status; a stream ends with its first.
        messages: what the server said to the first of each kind.
        answers: all answers to the process's first stream, serialized.
    """

    times: ChunkTimes
    errors: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    answers: list[bytes] = field(default_factory=list)


class Messages:
    """Requests of all streams, from prepared parts."""

    def __init__(self, model: str, samples: Pcm16, chunk_ms: int) -> None:
        """Cut ``samples`` into chunks of ``chunk_ms``, the rest left out; shorter recordings are repeated."""
        size = chunk_ms * SAMPLE_RATE_HZ // 1000
        if len(samples) < size:
            samples = np.tile(samples, -(-size // max(len(samples), 1)))
        self._model = model
        self._parts: list[bytes] = []
        for begin in range(0, len(samples) - size + 1, size):
            request = encode(model, "", WireChunk(1, samples[begin : begin + size]))
            request.ClearField("parameters")
            self._parts.append(request.SerializeToString())

    def heads(self, sequence: int) -> tuple[bytes, bytes, bytes]:
        """What a stream's first, middle and last requests have besides audio.

        One serialized message appended to another of its type is their merger: protobuf's encoding rules.
        """
        found = []
        for start, end in ((True, False), (False, False), (False, True)):
            head = service_pb2.ModelInferRequest()
            head.parameters["sequence_id"].int64_param = sequence
            head.parameters["sequence_start"].bool_param = start
            head.parameters["sequence_end"].bool_param = end
            if start:
                options = StreamOptions().model_dump_json(exclude_none=True)
                head.parameters[STREAM_OPTIONS].string_param = options
            found.append(head.SerializeToString())
        first, middle, last = found
        return first, middle, last

    def audio(self, number: int) -> bytes:
        """The part with the audio of chunk ``number`` of the endless recording."""
        return self._parts[number % len(self._parts)]

    def __len__(self) -> int:
        """Chunks until the recording begins again."""
        return len(self._parts)


class Clients:
    """The channels and streams of one process; made before the start so that nothing is set up during it."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._messages = Messages(load.model, load.samples, load.chunk_ms)
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
                keep = self._outcome.answers if place == 0 else None
                group.create_task(self._stream(stream, calls[place % len(calls)], start, keep))
        for channel in self._channels:
            await channel.close()
        table = np.array(self._rows, np.float64).reshape(-1, 3) - start
        self._outcome.times = ChunkTimes(*table.T.copy())
        return self._outcome

    async def _stream(self, stream: int, call: Call, start: float, keep: list[bytes] | None) -> None:
        load, messages = self._load, self._messages
        first, middle, last = messages.heads(load.first_sequence + stream)
        chunk_s = load.chunk_ms / 1000
        begin = load.ramp_s * stream / load.total
        count = max(2, int((load.seconds - begin) / chunk_s))
        # A prime number of chunks apart, so that neighbours do not say the same thing at the same time.
        place = stream * 7919 % len(messages)
        for number in range(count):
            head = last if number == count - 1 else (middle if number else first)
            request = messages.audio(place + number) + head
            due = start + begin + (number + 1) * chunk_s
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            sent = time.monotonic()
            try:
                answer = await call(request, timeout=ANSWER_LIMIT_S)
            except grpc.aio.AioRpcError as error:
                kind = error.code().name
                self._outcome.errors[kind] += 1
                self._outcome.messages.setdefault(kind, error.details() or "")
                return
            self._rows.append((due, sent, time.monotonic()))
            if keep is not None:
                keep.append(answer)


def method(channel: grpc.aio.Channel) -> Call:
    """ModelInfer with requests and answers as bytes."""
    call: Any = channel.unary_unary(_METHOD)
    return call  # type: ignore[no-any-return]


def shared_out(total: int, processes: int) -> Sequence[tuple[int, ...]]:
    """Which streams each process has: every n-th, so that each process has all phases."""
    return [tuple(range(first, total, processes)) for first in range(min(processes, total))]
