"""Requests and answers of `orchestrator.contract`, as protobuf messages of Triton's inference protocol."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor

from orchestrator import contract
from orchestrator.contract import DataType, ModelContract, TensorSpec
from orchestrator.diarization.base import Diarization, DiarizationOptions, SpeakerTurn
from orchestrator.engines.alignment.base import AlignedWord, Alignment, AlignmentOptions
from orchestrator.engines.base import (
    PCM16_SCALE,
    LanguageGuess,
    Pcm16,
    Recognition,
    RecognitionOptions,
    RecognizedWord,
    Samples,
)
from orchestrator.errors import RemoteInferenceError

MAX_MESSAGE_BYTES: Final = 2**31 - 1
"""gRPC and protobuf count a message's bytes in a signed 32-bit number."""
_NUMPY: Final[dict[DataType, type[np.generic]]] = {
    "UINT8": np.uint8,
    "FP32": np.float32,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
_OVERHEAD_BYTES: Final = 64 * 1024
"""More than names, shapes and options ever take."""


def request_bytes(samples: int, *, pcm16: bool = False) -> int:
    """The size of a request that carries ``samples`` samples, rounded up."""
    return samples * np.dtype(np.int16 if pcm16 else np.float32).itemsize + _OVERHEAD_BYTES


def to_pcm16(samples: Samples) -> Pcm16:
    """``samples`` (finite) rounded to the nearest 1/32,768; what is louder than full scale is cut off there.

    Nothing changes in samples that came from 16-bit audio.
    """
    scaled = np.multiply(samples, np.float32(PCM16_SCALE))
    np.rint(scaled, out=scaled)
    np.clip(scaled, -PCM16_SCALE, PCM16_SCALE - 1, out=scaled)
    return scaled.astype("<i2")


def encode(
    model: str,
    version: str,
    samples: Samples,
    options: RecognitionOptions | DiarizationOptions | AlignmentOptions | None,
    outputs: ModelContract,
    *,
    pcm16: bool = False,
    words: Sequence[str] | None = None,
) -> service_pb2.ModelInferRequest:
    """The request for one recording.

    Args:
        model: the model's name on the server.
        version: one version, or empty for the one the server's policy picks.
        samples: float32 ``[n]`` at 16 kHz.
        options: sent as JSON, without what is at its default, so that servers that do not know a new option
            answer all the same; nothing is sent where all is.
        outputs: the contract whose outputs are asked for.
        pcm16: send 16-bit samples, see `to_pcm16`.
        words: what is said in it, for an aligner.
    """
    request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    audio = to_pcm16(samples) if pcm16 else np.ascontiguousarray(samples, dtype="<f4")
    add_input(request, contract.PCM16 if pcm16 else contract.AUDIO, [1, len(audio)], audio.tobytes())
    if words is not None:
        content = b"".join(
            len(text).to_bytes(4, "little") + text for text in (word.encode() for word in words)
        )
        add_input(request, contract.WORD, [1, len(words)], content)
    if options is not None and (chosen := options.model_dump_json(exclude_defaults=True)) != "{}":
        text = chosen.encode()
        add_input(request, contract.OPTIONS, [1, 1], len(text).to_bytes(4, "little") + text)
    for spec in outputs.outputs:
        request.outputs.add(name=spec.name)
    return request


def add_input(
    request: service_pb2.ModelInferRequest, spec: TensorSpec, shape: list[int], content: bytes
) -> None:
    """Add a tensor's name, type and shape, and its bytes as raw contents."""
    request.inputs.add(name=spec.name, datatype=spec.datatype, shape=shape)
    request.raw_input_contents.append(content)


def decode_recognition(response: service_pb2.ModelInferResponse, host: str) -> Recognition:
    """The words in a recogniser's answer.

    Raises:
        RemoteInferenceError: the answer does not follow the contract.
    """
    tensors = Tensors(response, host)
    words = tensors.words()
    language = tensors.texts(contract.LANGUAGE)
    estimated = tensors.numbers(contract.TIMES_ESTIMATED)
    if len(language) != 1 or estimated.size != 1:
        raise tensors.broken("LANGUAGE and TIMES_ESTIMATED must hold one value each")
    return Recognition(words, language[0], bool(estimated.item()))


def decode_alignment(response: service_pb2.ModelInferResponse, words: int, host: str) -> Alignment:
    """The times of ``words`` words in an aligner's answer.

    Raises:
        RemoteInferenceError: the answer does not follow the contract.
    """
    tensors = Tensors(response, host)
    starts, ends, confidences = tensors.times()
    measured = tensors.numbers(contract.WORD_MEASURED).tolist()
    if not len(starts) == len(measured) == words:
        raise tensors.broken(f"it times {len(starts)} words of {words}")
    if any(late < early for early, late in pairwise(starts)):
        raise tensors.broken("word times run backwards")
    return tuple(map(AlignedWord, starts, ends, confidences, measured))


def decode_language(response: service_pb2.ModelInferResponse, host: str) -> LanguageGuess:
    """The language in the answer of a recogniser that was asked for `contract.DETECTOR`.

    Raises:
        RemoteInferenceError: the answer does not follow the contract.
    """
    tensors = Tensors(response, host)
    language = tensors.texts(contract.LANGUAGE)
    confidence = tensors.numbers(contract.LANGUAGE_CONFIDENCE)
    if len(language) != 1 or confidence.size != 1 or not 0 <= confidence.item() <= 1:
        raise tensors.broken("LANGUAGE and LANGUAGE_CONFIDENCE must hold one value each, the latter in 0..1")
    return LanguageGuess(language[0], float(confidence.item()))


def decode_diarization(response: service_pb2.ModelInferResponse, host: str) -> Diarization:
    """The turns in a diarizer's answer.

    Raises:
        RemoteInferenceError: the answer does not follow the contract.
    """
    tensors = Tensors(response, host)
    embeddings = tensors.matrix(contract.SPEAKER_EMBEDDING)
    turns = tensors.turns(contract.TURN_START_MS, contract.TURN_END_MS, contract.TURN_SPEAKER)
    exclusive = tensors.turns(
        contract.EXCLUSIVE_START_MS, contract.EXCLUSIVE_END_MS, contract.EXCLUSIVE_SPEAKER
    )
    return Diarization(turns, exclusive, embeddings)


class Tensors:
    """The outputs of one answer by name, checked against the contract."""

    def __init__(self, response: service_pb2.ModelInferResponse, host: str) -> None:
        self._model = response.model_name
        self._host = host
        if len(response.raw_output_contents) != len(response.outputs):
            raise self.broken("it carries no raw tensor contents")
        self._outputs = {
            output.name: (output, content)
            for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
        }

    def broken(self, reason: str) -> RemoteInferenceError:
        """The error for an answer that does not follow the contract."""
        return RemoteInferenceError(
            f"The answer of {self._model} does not follow the tensor contract: {reason}.",
            fix="rebuild the release with the version of spark-speech that the client has.",
            host=self._host,
            model=self._model,
        )

    def _content(self, spec: TensorSpec) -> tuple[list[int], bytes]:
        if spec.name not in self._outputs:
            raise self.broken(f"{spec.name} is missing")
        output, content = self._outputs[spec.name]
        if output.datatype != spec.datatype:
            raise self.broken(f"{spec.name} is {output.datatype} instead of {spec.datatype}")
        return list(output.shape), content

    def numbers(self, spec: TensorSpec) -> NDArray[np.generic]:
        """A tensor of numbers, flat."""
        _, content = self._content(spec)
        kind = np.dtype(_NUMPY[spec.datatype])
        if len(content) % kind.itemsize:
            raise self.broken(f"{spec.name} has {len(content)} bytes, not a multiple of {kind.itemsize}")
        return np.frombuffer(content, dtype=kind.newbyteorder("<"))

    def matrix(self, spec: TensorSpec) -> NDArray[np.float32]:
        """A float tensor ``[1, S, D]`` without its batch dimension."""
        shape, _ = self._content(spec)
        values = self.numbers(spec).astype(np.float32)
        if len(shape) != 3 or shape[0] != 1 or shape[1] * shape[2] != values.size:
            raise self.broken(f"{spec.name} has shape {shape} for {values.size} values")
        return values.reshape(shape[1], shape[2])

    def texts(self, spec: TensorSpec) -> list[str]:
        """A tensor of strings, flat."""
        _, content = self._content(spec)
        try:
            return [item.decode() for item in deserialize_bytes_tensor(content).tolist()]
        except (struct.error, UnicodeDecodeError) as error:
            raise self.broken(f"{spec.name} is not a list of UTF-8 strings") from error

    def words(self) -> tuple[RecognizedWord, ...]:
        """The words of a recogniser, checked."""
        texts = self.texts(contract.WORD)
        starts, ends, confidences = self.times()
        if len(texts) != len(starts):
            raise self.broken("the word tensors differ in length")
        rows = zip(texts, starts, ends, confidences, strict=True)
        return tuple(RecognizedWord(text, start, end, confidence) for text, start, end, confidence in rows)

    def times(self) -> tuple[list[int], list[int], list[float]]:
        """Starts, ends and confidences of words, checked."""
        starts = self.numbers(contract.WORD_START_MS).tolist()
        ends = self.numbers(contract.WORD_END_MS).tolist()
        confidences = self.numbers(contract.WORD_CONFIDENCE).tolist()
        if not len(starts) == len(ends) == len(confidences):
            raise self.broken("the word tensors differ in length")
        if any(not 0 <= start <= end for start, end in zip(starts, ends, strict=True)):
            raise self.broken("word times run backwards")
        if not all(0 <= confidence <= 1 for confidence in confidences):
            raise self.broken("a confidence is outside 0..1")
        return starts, ends, confidences

    def turns(self, start: TensorSpec, end: TensorSpec, speaker: TensorSpec) -> tuple[SpeakerTurn, ...]:
        """Turns from their three tensors."""
        columns = [self.numbers(spec).tolist() for spec in (start, end, speaker)]
        if len({len(column) for column in columns}) != 1:
            raise self.broken(f"{start.name}, {end.name} and {speaker.name} differ in length")
        return tuple(SpeakerTurn(*row) for row in zip(*columns, strict=True))
