"""A small Triton on the loopback: the real protocol on a real gRPC server, models and faults to choose."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from orchestrator.client.retry import RetryPolicy
from orchestrator.runtime.ports import free_ports

RATE = 16_000
Outputs = dict[str, tuple[str, list[int], bytes]]
Handler = Callable[[np.ndarray, dict[str, Any]], Outputs]


def strings(values: list[str]) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in values)


def recognition(
    words: list[tuple[str, int, int]], language: str = "en", *, estimated: bool = False
) -> Outputs:
    """The outputs of a recogniser that heard ``(text, start_ms, end_ms)``."""
    count = len(words)
    times = np.array([word[1:] for word in words], np.int32).reshape(count, 2)
    return {
        "WORD": ("BYTES", [1, count], strings([word[0] for word in words])),
        "WORD_START_MS": ("INT32", [1, count], times[:, 0].tobytes()),
        "WORD_END_MS": ("INT32", [1, count], times[:, 1].tobytes()),
        "WORD_CONFIDENCE": ("FP32", [1, count], np.full(count, 0.9, np.float32).tobytes()),
        "LANGUAGE": ("BYTES", [1, 1], strings([language])),
        "TIMES_ESTIMATED": ("BOOL", [1, 1], np.array([estimated]).tobytes()),
    }


def diarization(turns: list[tuple[int, int, int]], speakers: int = 2) -> Outputs:
    """The outputs of a diarizer that found ``(start_ms, end_ms, speaker)``; none overlap."""
    columns = np.array(turns, np.int32).reshape(len(turns), 3)
    outputs: Outputs = {
        f"{kind}_{column}": ("INT32", [1, len(turns)], columns[:, index].tobytes())
        for kind in ("TURN", "EXCLUSIVE")
        for index, column in enumerate(("START_MS", "END_MS", "SPEAKER"))
    }
    outputs["SPEAKER_EMBEDDING"] = ("FP32", [1, speakers, 4], np.ones((speakers, 4), np.float32).tobytes())
    return outputs


def spoken(text: str, lead_s: float = 0.5, each_s: float = 0.5) -> np.ndarray:
    """Audio that `hear` can read: word i of ``text`` is a stretch at the level of its place in the list."""
    words = text.split()
    audio = np.zeros(int((2 * lead_s + len(words) * each_s) * RATE), np.float32)
    for index in range(len(words)):
        start = int((lead_s + index * each_s) * RATE)
        audio[start : start + int(each_s * 0.8 * RATE)] = (index + 1) / 1000
    return audio


def hear(text: str) -> Handler:
    """A perfect recogniser of `spoken` audio: whole words only, times from the samples it was sent."""
    words = text.split()

    def handler(audio: np.ndarray, options: dict[str, Any]) -> Outputs:
        found = []
        levels = np.rint(audio * 1000).astype(int)
        for level in np.unique(levels[levels > 0]):
            where = np.flatnonzero(levels == level)
            cut = where[0] == 0 or where[-1] == len(audio) - 1
            name = "mm" if cut else words[level - 1]
            found.append((name, int(where[0] * 1000 // RATE), int((where[-1] + 1) * 1000 // RATE)))
        return recognition(sorted(found, key=lambda word: word[1]))

    return handler


@dataclass
class Model:
    handler: Handler | None = None
    parameters: dict[str, str] = field(default_factory=dict)
    state: str = "READY"
    reason: str = ""
    inputs: tuple[str, ...] = ("AUDIO", "PCM16", "OPTIONS")
    max_batch_size: int = 8


@dataclass
class Seen:
    model: str
    version: str
    samples: int
    options: dict[str, Any]
    metadata: dict[str, str]
    inputs: frozenset[str] = frozenset()


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers the calls the client makes; ``faults`` are tried, one an inference, before the model."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.faults: list[Callable[[grpc.ServicerContext], None]] = []
        self.seen: list[Seen] = []
        self.cancelled = threading.Event()
        self.entered = threading.Event()
        self.release = threading.Event()
        self.ready = True
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._server: grpc.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, options: list[tuple[str, int]] | None = None) -> None:
        server = grpc.server(
            ThreadPoolExecutor(24),
            options=[("grpc.so_reuseport", 0), *(options or [("grpc.max_receive_message_length", -1)])],
        )
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, server)
        # No port that the kernel gives to connections: one of them might take it while the server is away.
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port or free_ports(1)[0]}")
        server.start()
        self._server = server

    def stop(self) -> None:
        stopped = None if self._server is None else self._server.stop(None)
        self.release.set()  # only now: a request that it held back must not be answered any more
        if stopped is not None:
            stopped.wait()
            self._server = None

    def fail(self, code: grpc.StatusCode, details: str, times: int = 1) -> None:
        self.faults += [lambda context: context.abort(code, details)] * times

    def hang(self, context: grpc.ServicerContext) -> None:
        """A fault: hold the request until released, and see whether it is cancelled meanwhile."""
        context.add_callback(lambda: self.cancelled.set() if not self.release.is_set() else None)
        self.entered.set()
        self.release.wait(120)

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=self.ready)

    def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerMetadataResponse(name="fake", version="2.51.0")

    def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        response = service_pb2.RepositoryIndexResponse()
        for name, model in self.models.items():
            version = "1" if model.state else ""
            response.models.add(name=name, version=version, state=model.state, reason=model.reason)
        return response

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        model = self.models.get(request.name)
        if model is None or model.state != "READY":
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found"
            )
        response = service_pb2.ModelConfigResponse()
        for key, value in model.parameters.items():
            response.config.parameters[key].string_value = value
        for name in model.inputs:
            response.config.input.add(name=name)
        response.config.max_batch_size = model.max_batch_size
        response.config.instance_group.add(count=1)
        return response

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            fault = self.faults.pop(0) if self.faults else None
        try:
            return self._infer(request, context, fault)
        finally:
            with self._lock:
                self._at_once -= 1

    def _infer(
        self,
        request: Any,
        context: grpc.ServicerContext,
        fault: Callable[[grpc.ServicerContext], None] | None,
    ) -> Any:
        names = [tensor.name for tensor in request.inputs]
        contents = dict(zip(names, request.raw_input_contents, strict=True))
        if "PCM16" in contents:
            audio = np.frombuffer(contents["PCM16"], "<i2").astype(np.float32) / 32_768
        else:
            audio = np.frombuffer(contents["AUDIO"], "<f4")
        raw = contents.get("OPTIONS", b"")
        options = json.loads(raw[4:]) if raw else {}
        metadata = {item.key: item.value for item in context.invocation_metadata()}
        with self._lock:
            self.seen.append(
                Seen(
                    request.model_name, request.model_version, len(audio), options, metadata, frozenset(names)
                )
            )
        if fault is not None:
            fault(context)
        model = self.models.get(request.model_name)
        if model is None or model.handler is None:
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.model_name}' is not found"
            )
        if request.model_version not in ("", "1"):
            context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"Request for unknown model: 'echo' version {request.model_version} is not found",
            )
        time.sleep(0.002)
        response = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1")
        outputs = model.handler(audio, options)
        for wanted in request.outputs:
            if wanted.name in outputs:
                kind, shape, content = outputs[wanted.name]
                response.outputs.add(name=wanted.name, datatype=kind, shape=shape)
                response.raw_output_contents.append(content)
        return response


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits before another try are a tenth of what they are."""
    standard = RetryPolicy.wait_s

    def wait_s(policy: RetryPolicy, attempt: int) -> float | None:
        whole = standard(policy, attempt)
        return None if whole is None else whole / 10

    monkeypatch.setattr(RetryPolicy, "wait_s", wait_s)


TEXT = "it was the best of times it was the worst of times it was the age of wisdom"


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    """A running server with a recogniser `echo` and a `diarizer`."""
    server = FakeTriton()
    server.models["echo"] = Model(
        hear(TEXT),
        {
            "task": "recognize",
            "engine": "parrot",
            "languages": "en,de",
            "word_times": "measured",
            "max_window_s": "30",
            "rank": "10",
        },
    )
    server.models["diarizer"] = Model(
        lambda audio, options: diarization([(0, 3000, 0), (3000, 60_000, 1)]),
        {"task": "diarize", "rank": "1"},
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture
def tools() -> Any:
    """What tests build audio and answers with."""
    from types import SimpleNamespace

    return SimpleNamespace(
        Model=Model,
        TEXT=TEXT,
        hear=hear,
        spoken=spoken,
        recognition=recognition,
        diarization=diarization,
        strings=strings,
    )
