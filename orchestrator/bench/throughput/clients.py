"""Client processes that send recordings as fast as a server takes them.

At 20,000 times real time a server eats 640 MB of 16-bit audio a second, more than one Python process can
send. Requests are made and serialised beforehand, so that a process only sends them and reads the answers.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2

from orchestrator import contract
from orchestrator.bench.throughput.server import INFER
from orchestrator.bench.workers import answer, tell, workers
from orchestrator.client import codec, failures
from orchestrator.client.failures import Call
from orchestrator.engines.base import PCM16_SCALE, Pcm16
from orchestrator.errors import ServerUnavailableError, SpeechError

_HEAD_START_S: Final = 0.2
_READY_LIMIT_S: Final = 60.0
"""A new process imports gRPC and connects within this."""
_RUN_LIMIT_S: Final = 3600.0
_CHANNEL: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True)
class Load:
    """What one process sends: ``count`` requests, ``in_flight`` at once, over ``pieces`` again and again."""

    url: str
    model: str
    pieces: tuple[bytes, ...]
    count: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went: moments of `time.monotonic` in seconds, words heard, and processor time in seconds."""

    start: float
    end: float
    words: int
    cpu_s: float


class Clients:
    """Processes that send load; made by `client_processes`."""

    def __init__(self, pipes: Sequence[Connection]) -> None:
        self._pipes = pipes

    def send(self, url: str, model: str, pieces: Sequence[Pcm16], *, count: int, in_flight: int) -> Outcome:
        """Send ``count`` recordings, ``in_flight`` at once over all processes, and wait for all answers.

        Raises:
            SpeechError: the first failure of a request.
            ServerUnavailableError: a process ended.
        """
        raw = tuple(piece.astype("<i2").tobytes() for piece in pieces)
        running = self._pipes[: max(1, min(len(self._pipes), in_flight, count))]
        for number, pipe in enumerate(running):
            turns, slots = (_share(total, len(running), number) for total in (count, in_flight))
            tell(pipe, Load(url, model, raw, turns, slots))
        for pipe in running:
            answer(pipe, _READY_LIMIT_S)
        start = time.monotonic() + _HEAD_START_S
        for pipe in running:
            tell(pipe, start)
        outcomes = [answer(pipe, _RUN_LIMIT_S) for pipe in running]
        return Outcome(
            start=start,
            end=max(outcome.end for outcome in outcomes),
            words=sum(outcome.words for outcome in outcomes),
            cpu_s=sum(outcome.cpu_s for outcome in outcomes),
        )


@contextmanager
def client_processes(count: int) -> Iterator[Clients]:
    """``count`` processes until the block ends."""
    with workers(count, _serve, "client") as pipes:
        yield Clients(pipes)


def request_bytes(model: str, piece: bytes) -> bytes:
    """A serialised request for 16-bit samples."""
    samples = np.frombuffer(piece, "<i2").astype(np.float32) / np.float32(PCM16_SCALE)
    request = codec.encode(model, "", samples, None, contract.RECOGNIZER, pcm16=True)
    return bytes(request.SerializeToString())


def _share(total: int, parts: int, number: int) -> int:
    return total // parts + (number < total % parts)


def _serve(pipe: Connection) -> None:
    """A client process: loads in, outcomes out, until the pipe is closed."""
    while True:
        try:
            load: Load = pipe.recv()
            gc.collect()
            gc.disable()
            asyncio.run(_drive(load, pipe))
        except (EOFError, OSError, KeyboardInterrupt):
            return
        except SpeechError as error:
            pipe.send(error)
        finally:
            gc.enable()


async def _drive(load: Load, pipe: Connection) -> None:
    requests = [request_bytes(load.model, piece) for piece in load.pieces]
    call = Call(load.url, load.model, limit_s=_RUN_LIMIT_S)
    async with grpc.aio.insecure_channel(load.url, options=_CHANNEL) as channel:
        infer = channel.unary_unary(
            INFER,
            request_serializer=None,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        try:
            await asyncio.wait_for(channel.channel_ready(), _READY_LIMIT_S / 2)
        except TimeoutError as error:
            raise ServerUnavailableError("the server does not answer", host=load.url) from error
        words = 0
        turns = iter(range(load.count))

        async def sender() -> None:
            nonlocal words
            for turn in turns:
                try:
                    answer = await infer(requests[turn % len(requests)], timeout=call.limit_s)
                except grpc.aio.AioRpcError as error:
                    raise failures.from_status(error.code(), error.details(), call).error from error
                words += len(codec.decode_recognition(answer, load.url).words)

        pipe.send(None)
        # Nothing else is to be done in this process until the start is known.
        start: float = pipe.recv()
        await asyncio.sleep(max(0.0, start - time.monotonic()))
        begin, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(sender() for _ in range(load.in_flight)))
        pipe.send(Outcome(begin, time.monotonic(), words, time.process_time() - cpu))
