"""``config.pbtxt``: between Triton's protobuf schema and one frozen dataclass.

The schema is the one that ships with tritonclient; text is written and read by protobuf's own text format.
The dataclass holds the part of the schema that this project uses, and reading a file that says more fails
instead of dropping it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

from orchestrator.contract import DataType, TensorSpec
from orchestrator.errors import ReleaseInvalidError

FILE_NAME: Final = "config.pbtxt"
_BACKEND: Final = "python"
_TYPES: Final[Mapping[DataType, int]] = {
    "UINT8": schema.TYPE_UINT8,
    "FP32": schema.TYPE_FP32,
    "INT16": schema.TYPE_INT16,
    "INT32": schema.TYPE_INT32,
    "INT64": schema.TYPE_INT64,
    "BYTES": schema.TYPE_STRING,
    "BOOL": schema.TYPE_BOOL,
}
_NAMES: Final[Mapping[int, DataType]] = {value: name for name, value in _TYPES.items()}
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """Where instances of a model run: ``count`` on the CPU, or ``count`` on each GPU."""

    device: Device
    count: int = 1


@dataclass(frozen=True, slots=True)
class SequenceBatching:
    """Requests that belong together go to one instance, one after the other (Triton's ``oldest`` strategy).

    A model's Python code reads a request's sequence and its start and end flags from the request itself, so
    no control inputs are configured.

    Attributes:
        candidates: the most sequences of one instance that may have a request in a batch; others wait.
        idle_us: microseconds without a request after which Triton forgets a sequence.
        queue_delay_us: microseconds the first request of a batch waits for those of other sequences.
    """

    candidates: int
    idle_us: int
    queue_delay_us: int


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a ``config.pbtxt`` of this project says.

    Attributes:
        max_batch_size: requests in one call, at least 1; each request has a leading dimension of 1.
        ragged: inputs without a fixed length may differ in it within a batch (``allow_ragged_batch``).
        queue_delay_us: microseconds a batch waits to fill; None: no dynamic batching.
        sequences: how sequences are batched, in place of dynamic batching; None: there are none.
        parameters: `contract.Parameter` keys and their text.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    instances: tuple[InstanceGroup, ...]
    max_batch_size: int = 1
    ragged: bool = False
    queue_delay_us: int | None = None
    sequences: SequenceBatching | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)


def render(config: ModelConfig) -> str:
    """The text of the file; the same for equal configurations, whatever the order of ``parameters``."""
    return text_format.MessageToString(_to_message(config))


def parse(text: str, path: Path | None = None) -> ModelConfig:
    """The configuration that ``text`` holds; ``path`` only completes errors.

    Raises:
        ReleaseInvalidError: not a model configuration, or one with settings this project does not use.
    """
    message = schema.ModelConfig()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise ReleaseInvalidError(f"not a Triton model configuration: {error}", path=path) from error
    unknown = {item.data_type for item in (*message.input, *message.output)} - set(_NAMES)
    if unknown:
        names = ", ".join(schema.DataType.Name(value) for value in sorted(unknown))
        raise ReleaseInvalidError(f"the configuration uses {names}, which no model here does", path=path)
    config = _from_message(message)
    if _to_message(config) != message:
        raise ReleaseInvalidError(
            "the configuration has settings that this version does not know",
            path=path,
            fix="build the release again with this version",
        )
    return config


def _to_message(config: ModelConfig) -> schema.ModelConfig:
    message = schema.ModelConfig(name=config.name, backend=_BACKEND, max_batch_size=config.max_batch_size)
    for tensor in config.inputs:
        message.input.add(
            name=tensor.name,
            data_type=_TYPES[tensor.datatype],
            dims=tensor.dims,
            optional=tensor.optional,
            allow_ragged_batch=config.ragged and -1 in tensor.dims,
        )
    for tensor in config.outputs:
        message.output.add(name=tensor.name, data_type=_TYPES[tensor.datatype], dims=tensor.dims)
    for group in config.instances:
        kind = (
            schema.ModelInstanceGroup.KIND_GPU
            if group.device == "cuda"
            else schema.ModelInstanceGroup.KIND_CPU
        )
        message.instance_group.add(kind=kind, count=group.count)
    if config.queue_delay_us is not None:
        message.dynamic_batching.max_queue_delay_microseconds = config.queue_delay_us
        message.dynamic_batching.SetInParent()
    if (sequences := config.sequences) is not None:
        batching = message.sequence_batching
        batching.max_sequence_idle_microseconds = sequences.idle_us
        batching.oldest.max_candidate_sequences = sequences.candidates
        batching.oldest.max_queue_delay_microseconds = sequences.queue_delay_us
        batching.oldest.SetInParent()
    for key, value in config.parameters.items():
        message.parameters[key].string_value = value
    return message


def _from_message(message: schema.ModelConfig) -> ModelConfig:
    gpu = schema.ModelInstanceGroup.KIND_GPU
    return ModelConfig(
        name=message.name,
        inputs=tuple(
            TensorSpec(item.name, _NAMES[item.data_type], tuple(item.dims), optional=item.optional)
            for item in message.input
        ),
        outputs=tuple(
            TensorSpec(item.name, _NAMES[item.data_type], tuple(item.dims)) for item in message.output
        ),
        instances=tuple(
            InstanceGroup("cuda" if group.kind == gpu else "cpu", group.count)
            for group in message.instance_group
        ),
        max_batch_size=message.max_batch_size,
        ragged=any(item.allow_ragged_batch for item in message.input),
        queue_delay_us=(
            message.dynamic_batching.max_queue_delay_microseconds
            if message.HasField("dynamic_batching")
            else None
        ),
        sequences=_sequences(message),
        parameters={key: value.string_value for key, value in message.parameters.items()},
    )


def _sequences(message: schema.ModelConfig) -> SequenceBatching | None:
    batching = message.sequence_batching
    if not message.HasField("sequence_batching") or not batching.HasField("oldest"):
        return None
    return SequenceBatching(
        candidates=batching.oldest.max_candidate_sequences,
        idle_us=batching.max_sequence_idle_microseconds,
        queue_delay_us=batching.oldest.max_queue_delay_microseconds,
    )
