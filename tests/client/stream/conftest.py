"""A Triton on the loopback that serves simulated streams: the real protocol, faults to choose."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from orchestrator.backend import faults, updates
from orchestrator.engines.streaming import ChunkOptions, StreamOptions, StreamUpdate
from orchestrator.errors import StreamLimitError
from tests.client.conftest import FakeTriton, Model
from tests.client.stream.simulated import SimulatedStream

CHUNK_MS = 80
LOST = (
    "in ensemble, inference request for sequence 7 to model 'ears' must specify the START flag on the first "
    "request of the sequence"
)


@dataclass
class Chunk:
    """One request that arrived."""

    sequence: int
    samples: int
    start: bool
    end: bool
    options: StreamOptions | ChunkOptions | None
    at_s: float = field(default_factory=time.monotonic)


class FakeStreams(FakeTriton):
    """``chunk_faults`` are tried, one a chunk that carries audio or opens, before it is worked on."""

    def __init__(self) -> None:
        super().__init__()
        self.models["ears"] = Model(
            None,
            {
                "task": "stream",
                "engine": "shell",
                "languages": "en",
                "chunk_ms": str(CHUNK_MS),
                "max_streams": "3",
                "rank": "5",
            },
        )
        self.chunks: list[Chunk] = []
        self.sequences: dict[int, SimulatedStream] = {}
        self.chunk_faults: list[Callable[[grpc.ServicerContext], None]] = []
        self.after_faults: dict[int, Callable[[grpc.ServicerContext], None]] = {}
        self.told: list[int] = []
        """The sequence of each answer that is out: a stream whose first one is lost has not begun."""
        self.max_streams = 3
        self.slow_s = 0.0
        self.mutex = threading.Lock()

    def die(self) -> None:
        """As after kill -9: the port is closed and no stream is known."""
        self.stop()
        self.sequences.clear()
        self.release.clear()

    def _infer(self, request: Any, context: grpc.ServicerContext, fault: Any) -> Any:
        if "sequence_id" not in request.parameters:
            return super()._infer(request, context, fault)
        contents = dict(zip([i.name for i in request.inputs], request.raw_input_contents, strict=True))
        start = request.parameters["sequence_start"].bool_param
        raw = request.parameters["options"].string_param if "options" in request.parameters else ""
        kind = StreamOptions if start else ChunkOptions
        options = kind.model_validate_json(raw) if raw else None
        sequence = request.parameters["sequence_id"].int64_param
        samples = np.frombuffer(contents["PCM16"], "<i2")
        chunk = Chunk(sequence, len(samples), start, request.parameters["sequence_end"].bool_param, options)
        with self.mutex:
            self.chunks.append(chunk)
            broken = self.chunk_faults.pop(0) if self.chunk_faults and (len(samples) or start) else None
        if broken is not None:
            broken(context)
        if self.slow_s:
            time.sleep(self.slow_s)
        with self.mutex:
            if start:
                if len(self.sequences) >= self.max_streams:
                    told = faults.encode(StreamLimitError(f"{self.max_streams} streams are open", fix="wait"))
                    context.abort(grpc.StatusCode.INTERNAL, told)
                self.sequences[sequence] = SimulatedStream(CHUNK_MS)
            stream = self.sequences.get(sequence)
            if stream is None:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, LOST)
            force = options is not None and options.force_end_of_utterance
            update = stream.step(samples, end=chunk.end, force=force)
            if chunk.end:
                del self.sequences[sequence]
        context.add_callback(lambda: self.told.append(sequence))
        return respond(request, update)

    def abort(self, code: grpc.StatusCode, details: str, times: int = 1) -> None:
        """Let the next chunks fail."""
        self.chunk_faults += [lambda context: context.abort(code, details)] * times

    def live(self, count: int = 0, within_s: float = 30.0) -> bool:
        """Whether soon exactly ``count`` streams are open."""
        end = time.monotonic() + within_s
        while len(self.sequences) != count and time.monotonic() < end:
            time.sleep(0.01)
        return len(self.sequences) == count


def respond(request: Any, update: StreamUpdate) -> Any:
    content = updates.encode(update)
    response = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1")
    (wanted,) = request.outputs
    response.outputs.add(name=wanted.name, datatype="UINT8", shape=[1, len(content)])
    response.raw_output_contents.append(content)
    return response


@pytest.fixture
def server() -> Iterator[FakeStreams]:
    """A running server with one streaming model, `ears`, for at most three streams."""
    made = FakeStreams()
    made.start()
    yield made
    made.stop()
