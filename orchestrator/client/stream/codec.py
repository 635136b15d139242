"""Chunks of a live stream and their answers, as messages of Triton's inference protocol."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from orchestrator import contract
from orchestrator.backend import updates
from orchestrator.client.codec import Tensors, add_input
from orchestrator.engines.streaming import ChunkOptions, StreamOptions, StreamUpdate

Pcm16 = NDArray[np.int16]
"""Mono 16-bit samples at 16 kHz, shape ``[n]``."""

_ID_LIMIT: Final = 2**63
"""Triton takes a sequence's number from a signed 64-bit parameter; 0 means none."""


def new_sequence_id() -> int:
    """A number that no other stream of any client has, as far as chance allows."""
    return 1 + secrets.randbelow(_ID_LIMIT - 1)


@dataclass(frozen=True, slots=True)
class WireChunk:
    """One request of a live stream.

    Attributes:
        sequence: the number of the server's sequence, 1 to 2**63 - 1.
        samples: the audio; may be empty.
        start, end: whether it opens and whether it closes the sequence.
        options: `StreamOptions` with the chunk that opens, `ChunkOptions` or None with the others.
    """

    sequence: int
    samples: Pcm16
    start: bool = False
    end: bool = False
    options: StreamOptions | ChunkOptions | None = None


def encode(model: str, version: str, chunk: WireChunk) -> service_pb2.ModelInferRequest:
    """The request for one chunk; asks for all outputs of the contract."""
    request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    request.parameters["sequence_id"].int64_param = chunk.sequence
    request.parameters["sequence_start"].bool_param = chunk.start
    request.parameters["sequence_end"].bool_param = chunk.end
    audio = np.ascontiguousarray(chunk.samples, dtype="<i2")
    add_input(request, contract.PCM16, [1, len(audio)], audio.tobytes())
    if chunk.options is not None:
        text = chunk.options.model_dump_json(exclude_none=True)
        request.parameters[contract.STREAM_OPTIONS].string_param = text
    for spec in contract.STREAM_RECOGNIZER.outputs:
        request.outputs.add(name=spec.name)
    return request


def decode(response: service_pb2.ModelInferResponse, host: str) -> StreamUpdate:
    """What a chunk changed.

    Raises:
        RemoteInferenceError: the answer does not follow the contract.
    """
    tensors = Tensors(response, host)
    try:
        return updates.decode(tensors.numbers(contract.UPDATE).tobytes())
    except ValueError as error:
        raise tensors.broken(str(error)) from error
