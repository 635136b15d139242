"""TensorRT's Python interface as far as it is used, over onnxruntime and plain memory.

A "plan" is the ONNX file. What is checked is what the real library would check: names, shapes within the
profile, types, and that inputs and outputs are where they were said to be.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError

__version__ = "10.0.fake"
_NUMPY = {1: ("FLOAT", np.float32), 7: ("INT64", np.int64), 10: ("HALF", np.float16)}


class Logger:
    WARNING = 2

    def __init__(self, severity: int) -> None:
        self.severity = severity


NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
PROFILES: dict[bytes, dict[str, Any]] = {}


class Builder:
    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> Any:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return SimpleNamespace(path=None, num_inputs=0, get_input=None)

    def create_builder_config(self) -> Any:
        config = SimpleNamespace(profiles=[], pools={})
        config.add_optimization_profile = config.profiles.append
        config.set_memory_pool_limit = config.pools.__setitem__
        return config

    def create_optimization_profile(self) -> Any:
        profile = SimpleNamespace(shapes={})
        profile.set_shape = lambda name, *shapes: profile.shapes.__setitem__(name, shapes)
        return profile

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        (profile,) = config.profiles
        assert set(profile.shapes) == {network.get_input(i).name for i in range(network.num_inputs)}
        plan = Path(network.path).read_bytes()
        PROFILES[plan] = profile.shapes
        return plan


class OnnxParser:
    def __init__(self, network: Any, logger: Logger) -> None:
        self.network, self.errors = network, []

    def parse_from_file(self, path: str) -> bool:
        try:
            graph = onnx.load(path).graph
        except DecodeError as error:
            self.errors = [str(error)]
            return False
        self.network.path = path
        self.network.num_inputs = len(graph.input)
        self.network.get_input = lambda number: graph.input[number]
        return True

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, number: int) -> Any:
        return SimpleNamespace(desc=lambda: self.errors[number])


class Runtime:
    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        return Engine(plan) if plan in PROFILES else None


class Engine:
    def __init__(self, plan: bytes) -> None:
        self.profile = PROFILES[plan]
        graph = onnx.load_from_string(plan).graph
        self.session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        self.inputs = [one.name for one in graph.input]
        self.outputs = [one.name for one in graph.output]
        self.types = {one.name: one.type.tensor_type.elem_type for one in (*graph.input, *graph.output)}

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, number: int) -> str:
        return (self.inputs + self.outputs)[number]

    def get_tensor_mode(self, name: str) -> str:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=_NUMPY[self.types[name]][0])

    def create_execution_context(self) -> Context:
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.places: dict[str, int] = {}
        self.found: dict[str, Any] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.profile[name]
        self.shapes[name] = shape
        self.found = {}
        return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.places[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        # The real one works shapes out by itself; this one has to compute.
        if not self.found:
            inputs = {one: self._read(one) for one in self.engine.inputs}
            self.found = dict(
                zip(self.engine.outputs, self.engine.session.run(self.engine.outputs, inputs), strict=True)
            )
        return tuple(self.found[name].shape)

    def execute_async_v3(self, stream: int) -> bool:
        for name, array in self.found.items():
            data = np.ascontiguousarray(array)
            ctypes.memmove(self.places[name], data.ctypes.data, data.nbytes)
        return True

    def _read(self, name: str) -> Any:
        kind = np.dtype(_NUMPY[self.engine.types[name]][1])
        size = int(np.prod(self.shapes[name])) * kind.itemsize
        data = ctypes.string_at(self.places[name], size)
        return np.frombuffer(data, kind).reshape(self.shapes[name])
