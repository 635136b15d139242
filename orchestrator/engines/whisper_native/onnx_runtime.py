"""A graph computed by onnxruntime: what the graphs are checked with where there is no TensorRT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.engines.checks import reason_of
from orchestrator.errors import InferenceError, MissingDependencyError, ModelLoadError


class OnnxGraph:
    """See `graphs.Graph`. On the CPU.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        ModelLoadError: it cannot load the file.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        try:
            from orchestrator.engines.onnx_session import FAULTS, open_session
        except ImportError as error:
            raise MissingDependencyError(
                f"onnxruntime cannot be imported: {error}", fix="run: pip install 'spark-speech[whisper-trt]'"
            ) from error
        self._faults = FAULTS
        try:
            self._session: Any = open_session(path, threads)
        except FAULTS as error:
            raise ModelLoadError(
                f"onnxruntime cannot load {path.name}: {reason_of(error)}", fix="export it again.", path=path
            ) from error
        self._inputs = {one.name for one in self._session.get_inputs()}
        self._outputs = [one.name for one in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `graphs.Graph`."""
        arrays = {name: value.numpy() for name, value in inputs.items() if name in self._inputs}
        try:
            found = self._session.run(self._outputs, arrays)
        except self._faults as error:
            raise InferenceError(
                f"onnxruntime failed: {reason_of(error)}", fix="export the graph again."
            ) from error
        return {name: torch.from_numpy(array) for name, array in zip(self._outputs, found, strict=True)}

    def close(self) -> None:
        """See `graphs.Graph`."""
        self._session = None
