"""The seam to TensorRT: a graph built into a plan, and a plan run on torch's tensors.

Written from TensorRT's Python API (docs.nvidia.com/deeplearning/tensorrt, versions 10 and 11): strongly typed
networks, whose precision is that of the ONNX graph; one optimization profile for each plan; inputs and
outputs by name. torch allocates all memory and gives its current stream, so that no other CUDA library is
needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from orchestrator.errors import InferenceError, MissingDependencyError, ModelLoadError

Range = Sequence[Sequence[int]]
"""Smallest, usual and largest shape of an input."""
WORKSPACE_BYTES: Final = 4 * 1024**3
"""What a kernel may use beside inputs and outputs while plans are built and run."""
_ENGINE: Final = "whisper_trt"
_DTYPES: Final = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "BOOL": torch.bool,
}
"""TensorRT's names."""


def library() -> Any:
    """The module ``tensorrt``.

    Raises:
        MissingDependencyError: it cannot be imported.
    """
    try:
        return importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"whisper_trt needs TensorRT on the target: {error}",
            fix="install the one for the machine's CUDA there, for example: pip install tensorrt-cu13; "
            "or use whisper_torch, which needs none.",
            model=_ENGINE,
        ) from error


def build(trt: Any, graph: Path, ranges: Mapping[str, Range]) -> bytes:
    """The plan of an ONNX graph, for inputs in ``ranges``. Takes minutes for a large network.

    Raises:
        ModelLoadError: TensorRT cannot read or build it.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    # From the file: weights over 2 GB lie in files beside it.
    if not parser.parse_from_file(str(graph)):
        reasons = [str(parser.get_error(number).desc()) for number in range(parser.num_errors)]
        raise ModelLoadError(
            f"TensorRT {trt.__version__} cannot read {graph.name}: {'; '.join(reasons) or 'it says nothing'}",
            fix="use a TensorRT of version 10 or newer.",
            model=_ENGINE,
            path=graph,
        )
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    profile = builder.create_optimization_profile()
    inputs = {network.get_input(number).name for number in range(network.num_inputs)}
    for name, (least, usual, most) in ranges.items():
        if name in inputs:  # a graph leaves out what it does not need
            profile.set_shape(name, tuple(least), tuple(usual), tuple(most))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ModelLoadError(
            f"TensorRT {trt.__version__} cannot build {graph.name}; its own log says why",
            fix="look whether the GPU has memory left; lower the engine's option max_rows.",
            model=_ENGINE,
            path=graph,
        )
    return bytes(plan)


class TensorRtGraph:
    """See `graphs.Graph`. Outputs are new tensors at each call.

    Raises:
        ModelLoadError: TensorRT does not take the plan.
    """

    def __init__(self, trt: Any, name: str, plan: bytes, device: torch.device) -> None:
        self._name = name
        self._device = device
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ModelLoadError(
                f"TensorRT {trt.__version__} does not take the plan of {name}",
                fix="delete the folder of plans, and the engine builds them again.",
                model=_ENGINE,
            )
        self._engine = engine
        self._context = engine.create_execution_context()
        if self._context is None:
            raise ModelLoadError(
                f"TensorRT has no memory to run {name}", fix="lower the option max_rows.", model=_ENGINE
            )
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        self._inputs = [one for one in names if engine.get_tensor_mode(one) == trt.TensorIOMode.INPUT]
        self._outputs = [one for one in names if one not in self._inputs]
        self._dtypes = {one: _DTYPES[str(engine.get_tensor_dtype(one).name)] for one in names}

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `graphs.Graph`."""
        context = self._context
        # Held until the work is on the stream: torch gives freed memory only to later work of that stream.
        given = {name: inputs[name].to(self._dtypes[name]).contiguous() for name in self._inputs}
        for name, value in given.items():
            fits = context.set_input_shape(name, tuple(value.shape))
            if not fits or not context.set_tensor_address(name, value.data_ptr()):
                raise _failed(
                    self._name, f"{name} of shape {list(value.shape)} is outside of the plan's range"
                )
        found = {}
        for name in self._outputs:
            shape = tuple(context.get_tensor_shape(name))
            found[name] = torch.empty(shape, dtype=self._dtypes[name], device=self._device)
            context.set_tensor_address(name, found[name].data_ptr())
        if not context.execute_async_v3(_stream(self._device)):
            raise _failed(self._name, "it could not be launched")
        return found

    def close(self) -> None:
        """See `graphs.Graph`."""
        self._context = self._engine = self._runtime = None


def _stream(device: torch.device) -> int:
    """torch's current stream, as a number; TensorRT warns of the default one, and works on it."""
    return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0


def _failed(name: str, reason: str) -> InferenceError:
    return InferenceError(
        f"TensorRT failed at {name}: {reason}", fix="lower the option max_rows.", model=_ENGINE
    )
