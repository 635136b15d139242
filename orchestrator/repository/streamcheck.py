"""One short stream to each model of live streams on a server: silence in, answers of the contract out."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from orchestrator.contract import PCM16, SAMPLE_RATE_HZ, STREAM_RECOGNIZER, Parameter, Task
from orchestrator.errors import ServerStartError
from orchestrator.repository.config import FILE_NAME, ModelConfig, parse

CHUNKS: Final = 4
"""Enough for a step with left context, and for a last one."""
_STREAM: Final = 1
_LIMIT_S: Final = 120.0
"""For one chunk; the first may compile."""


def try_streams(repository: Path, models: Sequence[str], url: str) -> None:
    """Send a stream of silence to each of ``models`` that takes live streams.

    Args:
        repository: the model repository, for the models' configurations.
        models: their names.
        url: ``host:port`` of the server's gRPC.

    Raises:
        ServerStartError: a model fails on it, or does not answer with the outputs of the contract.
    """
    configs = [parse((repository / name / FILE_NAME).read_text(encoding="utf-8")) for name in models]
    live = [config for config in configs if config.parameters.get(Parameter.TASK) == Task.STREAM]
    if not live:
        return
    with grpc.insecure_channel(url, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for config in live:
            try:
                _try_stream(stub, config)
            except grpc.RpcError as error:
                with contextlib.suppress(grpc.RpcError):  # a server that stops waits for open streams
                    stub.ModelInfer(_chunk(config, CHUNKS - 1), timeout=_LIMIT_S)
                raise ServerStartError(
                    f"{config.name} fails on a stream of silence: {error.details()}",
                    model=config.name,
                    fix="the log has the details; `spark-speech doctor` checks what models need",
                ) from error


def _try_stream(stub: service_pb2_grpc.GRPCInferenceServiceStub, config: ModelConfig) -> None:
    for number in range(CHUNKS):
        _check(stub.ModelInfer(_chunk(config, number), timeout=_LIMIT_S), config.name)


def _chunk(config: ModelConfig, number: int) -> service_pb2.ModelInferRequest:
    samples = int(config.parameters[Parameter.CHUNK_MS]) * SAMPLE_RATE_HZ // 1000
    request = service_pb2.ModelInferRequest(model_name=config.name)
    request.inputs.add(name=PCM16.name, datatype=PCM16.datatype, shape=[1, samples])
    request.raw_input_contents.append(bytes(2 * samples))
    request.parameters["sequence_id"].int64_param = _STREAM
    request.parameters["sequence_start"].bool_param = number == 0
    request.parameters["sequence_end"].bool_param = number == CHUNKS - 1
    return request


def _check(response: service_pb2.ModelInferResponse, model: str) -> None:
    have = {output.name for output in response.outputs}
    want = {spec.name for spec in STREAM_RECOGNIZER.outputs}
    if have != want:
        raise ServerStartError(
            f"{model} answers with {', '.join(sorted(have)) or 'nothing'}, "
            f"not with {', '.join(sorted(want))}",
            model=model,
            fix="its model.py and this version of spark-speech do not belong together",
        )
