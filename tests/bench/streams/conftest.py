"""A server that answers ModelInfer as a test wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2


@dataclass
class FakeServer:
    """Keeps every request; ``behave`` may sleep, or end a call with ``context.abort``."""

    behave: Callable[[service_pb2.ModelInferRequest, Any], None] = lambda request, context: None
    requests: list[tuple[float, service_pb2.ModelInferRequest]] = field(default_factory=list)
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def infer(self, content: bytes, context: Any) -> bytes:
        request = service_pb2.ModelInferRequest.FromString(content)
        with self._lock:
            self.requests.append((time.monotonic(), request))
        self.behave(request, context)
        return service_pb2.ModelInferResponse(model_name=request.model_name).SerializeToString()

    def of(self, sequence: int) -> list[service_pb2.ModelInferRequest]:
        """The requests of one stream, in order."""
        return [
            request
            for _, request in self.requests
            if request.parameters["sequence_id"].int64_param == sequence
        ]


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    fake = FakeServer()
    server = grpc.server(ThreadPoolExecutor(32))
    handler = grpc.unary_unary_rpc_method_handler(fake.infer)
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"ModelInfer": handler})])
    fake.url = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield fake
    server.stop(None).wait()
