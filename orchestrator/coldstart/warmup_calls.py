"""Rounds of work for a running server: so many recordings or streams at once, over Triton's own protocol."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

import grpc
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from orchestrator import contract
from orchestrator.client import codec, failures
from orchestrator.client.catalog import IndexEntry, ServedConfig, card
from orchestrator.client.channel import parse_url
from orchestrator.client.stream import codec as stream_codec
from orchestrator.client.stream.codec import WireChunk, new_sequence_id
from orchestrator.coldstart.shapes import ServedModel, Shape
from orchestrator.contract import SAMPLE_RATE_HZ, Task
from orchestrator.diarization.base import DiarizationOptions
from orchestrator.engines.base import PCM16_SCALE, Pcm16, RecognitionOptions
from orchestrator.engines.streaming import StreamOptions
from orchestrator.errors import SpeechError

CALL_LIMIT_S: Final = 600.0
"""For one request: the first of a shape may compile for minutes."""
_WORDS: Final = ("hello",)
"""What an aligner is asked to find."""
_STEPS: Final = 4
"""Chunks of a stream in one round: the first ones fill its context."""
_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
)


class WarmupCalls:
    """One connection to a server; a context manager."""

    def __init__(self, url: str, sound: Pcm16) -> None:
        """Connect at the first call.

        Args:
            url: of Triton's gRPC, see `parse_url`.
            sound: speech, 16 kHz; cut and repeated to the lengths that are wanted.

        Raises:
            ConfigurationError: ``url`` is no address.
        """
        self.host, secure = parse_url(url)
        self._sound = sound
        self._channel = (
            grpc.secure_channel(self.host, grpc.ssl_channel_credentials(), options=_OPTIONS)
            if secure
            else grpc.insecure_channel(self.host, options=_OPTIONS)
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> WarmupCalls:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def models(self) -> tuple[ServedModel, ...]:
        """The models that are ready and of this project, by name.

        Raises:
            SpeechError: the server does not answer.
        """
        try:
            index = self._stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(ready=True), timeout=30)
            configs = {
                name: self._stub.ModelConfig(service_pb2.ModelConfigRequest(name=name), timeout=30).config
                for name in sorted({model.name for model in index.models if model.state == "READY"})
            }
        except grpc.RpcError as error:
            raise self._error(error) from error
        found = (_served(name, config) for name, config in configs.items())
        return tuple(model for model in found if model is not None)

    def round(self, model: ServedModel, shape: Shape) -> float:
        """Let the model work on ``shape`` once; seconds for a batch, or for one step of the streams.

        Raises:
            SpeechError: a request failed.
        """
        try:
            if model.task is Task.STREAM:
                return self._steps(model, shape.batch)
            return self._together([self._recording(model, row, shape.seconds) for row in range(shape.batch)])
        except grpc.RpcError as error:
            raise self._error(error, model.name) from error

    def _together(self, requests: Sequence[service_pb2.ModelInferRequest]) -> float:
        began = time.perf_counter()
        calls = [self._stub.ModelInfer.future(request, timeout=CALL_LIMIT_S) for request in requests]
        for call in calls:
            call.result()
        return time.perf_counter() - began

    def _recording(self, model: ServedModel, row: int, seconds: float) -> service_pb2.ModelInferRequest:
        samples = self._piece(row, seconds).astype(np.float32) / np.float32(PCM16_SCALE)
        options: RecognitionOptions | DiarizationOptions = (
            DiarizationOptions()
            if model.task is Task.DIARIZE
            else RecognitionOptions(language=model.language)
        )
        outputs = contract.CONTRACTS[model.task]
        words = _WORDS if model.task is Task.ALIGN else None
        return codec.encode(model.name, "", samples, options, outputs, pcm16=model.takes_pcm16, words=words)

    def _steps(self, model: ServedModel, streams: int) -> float:
        """The slowest step of new streams that go on side by side; they are closed also when one fails."""
        sequences = [new_sequence_id() for _ in range(streams)]
        took: list[float] = []
        try:
            for step in range(_STEPS):
                chunks = [self._chunk(model, each, row, step) for row, each in enumerate(sequences)]
                took.append(self._together(chunks))
        finally:
            last = [
                stream_codec.encode(model.name, "", WireChunk(each, np.zeros(0, np.int16), end=True))
                for each in sequences
            ]
            with suppress(grpc.RpcError):  # one that never opened has nothing to close
                self._together(last)
        return max(took)

    def _chunk(self, model: ServedModel, sequence: int, row: int, step: int) -> service_pb2.ModelInferRequest:
        seconds = model.chunk_ms / 1000
        samples = self._piece(row, seconds, step * seconds)
        options = StreamOptions(language=model.language) if step == 0 else None
        chunk = WireChunk(sequence, samples, start=step == 0, options=options)
        return stream_codec.encode(model.name, "", chunk)

    def _piece(self, row: int, seconds: float, offset_s: float = 0.0) -> Pcm16:
        """Another piece for each row, so that a batch is not one recording many times."""
        begin = int((row * 1.37 + offset_s) * SAMPLE_RATE_HZ)
        return np.resize(np.roll(self._sound, -begin), round(seconds * SAMPLE_RATE_HZ))

    def _error(self, error: grpc.RpcError, model: str | None = None) -> SpeechError:
        call = failures.Call(self.host, model, limit_s=CALL_LIMIT_S)
        return failures.from_status(error.code(), error.details(), call).error


def _served(name: str, config: Any) -> ServedModel | None:
    """What a configuration says of a model; None where it is not one of this project's."""
    gpu = any(group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU for group in config.instance_group)
    served = ServedConfig(
        {key: value.string_value for key, value in config.parameters.items()},
        frozenset(tensor.name for tensor in config.input),
        config.max_batch_size,
        max(1, sum(group.count for group in config.instance_group)),
    )
    found = card(name, [IndexEntry(name, "1", "READY", "")], served)
    if found.task is None:
        return None
    return ServedModel(
        name=found.name,
        task=found.task,
        gpu=gpu,
        max_batch=found.max_streams if found.task is Task.STREAM else config.max_batch_size,
        max_window_s=found.max_window_s,
        chunk_ms=found.chunk_ms,
        language=found.languages[0] if found.languages else None,
        takes_pcm16=found.takes_pcm16,
    )
