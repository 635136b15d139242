"""A model in onnxruntime on the CPU, and everything that the library raises."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as faults

FAULTS: Final[tuple[type[Exception], ...]] = (
    *(faults.EPFail, faults.Fail, faults.InvalidArgument, faults.InvalidGraph, faults.InvalidProtobuf),
    *(faults.NoModel, faults.NoSuchFile, faults.NotImplemented, faults.RuntimeException),
    *(RuntimeError, ValueError, OSError),
)
"""The library's own exceptions have no class in common."""
_ERRORS_ONLY: Final = 3


def open_session(path: Path, threads: int | None) -> Any:
    """An ``InferenceSession``; ``threads`` None: the library's own default.

    Raises:
        Exception: one of `FAULTS`, where the file is missing or damaged.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = _ERRORS_ONLY
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
