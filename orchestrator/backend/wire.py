"""The Triton side of a request: options out of it, tensors and faults into its response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from orchestrator.backend.faults import encode
from orchestrator.errors import (
    AudioError,
    InvalidRequestError,
    SpeechError,
    StreamLimitError,
    StreamLostError,
    UnsupportedLanguageError,
)

OptionsT = TypeVar("OptionsT", bound=BaseModel)
Tensors = Mapping[str, NDArray[Any]]
"""Output tensors by name, without the leading batch dimension."""

_CODES: Final[tuple[tuple[type[SpeechError], str], ...]] = (
    (AudioError, "INVALID_ARG"),
    (InvalidRequestError, "INVALID_ARG"),
    (UnsupportedLanguageError, "INVALID_ARG"),
    (StreamLimitError, "UNAVAILABLE"),
    (StreamLostError, "NOT_FOUND"),
)
"""Triton's status code by error; it has none for exhausted resources."""


class TritonUtils(Protocol):
    """The part of Triton's ``triton_python_backend_utils`` used here."""

    Tensor: Any
    InferenceResponse: Any
    TritonError: Any

    def get_input_tensor_by_name(self, request: Any, name: str) -> Any:
        """The request's tensor, None where it has none of this name."""


def read_options(tensor: Any, options_type: type[OptionsT]) -> OptionsT:
    """The options in an OPTIONS tensor; the defaults where the request has none (``tensor`` is None).

    Raises:
        InvalidRequestError: not one JSON object, an unknown key or a wrong value.
    """
    if tensor is None:
        return options_type()
    values = tensor.as_numpy()
    if values.size != 1:
        raise InvalidRequestError(
            f"OPTIONS has shape {list(values.shape)}, not [1, 1]", fix=_options_fix(options_type)
        )
    return parse_options(values.reshape(-1)[0], options_type)


def parse_options(text: str | bytes, options_type: type[OptionsT]) -> OptionsT:
    """The options in ``text``.

    Raises:
        InvalidRequestError: not one JSON object, an unknown key or a wrong value.
    """
    try:
        return options_type.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise InvalidRequestError(
            f"OPTIONS cannot be read: {reason}", fix=_options_fix(options_type)
        ) from error


def _options_fix(options_type: type[BaseModel]) -> str:
    return f"send one JSON object with any of: {', '.join(options_type.model_fields)}"


def is_cancelled(request: Any) -> bool:
    """Whether the request's client went away; costs a question to the server, about 40 microseconds."""
    asked = getattr(request, "is_cancelled", None)
    return bool(asked()) if asked is not None else False


def batched(values: NDArray[Any]) -> NDArray[Any]:
    """``values`` as ``[1, ...]``.

    An array without elements gets the strides of C order: NumPy may keep them all at 0, and a server that
    takes the array through DLPack compares them with the shape.
    """
    shape = (1, *values.shape)
    if values.size or values.dtype.hasobject:
        return values.reshape(shape)
    strides, step = [], values.itemsize
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return np.lib.stride_tricks.as_strided(np.empty(1, values.dtype), shape, strides[::-1])


def failed_response(fault: SpeechError, pb_utils: TritonUtils) -> Any:
    """A response with an error that the client can decode."""
    code = next((code for kind, code in _CODES if isinstance(fault, kind)), "INTERNAL")
    return _response(encode(fault), code, pb_utils)


def cancelled_response(pb_utils: TritonUtils) -> Any:
    """A response that nobody waits for."""
    return _response("the client cancelled the request", "CANCELLED", pb_utils)


def _response(message: str, code: str, pb_utils: TritonUtils) -> Any:
    # None where this version's TritonError has no codes.
    known = getattr(pb_utils.TritonError, code, None)
    error = pb_utils.TritonError(message) if known is None else pb_utils.TritonError(message, known)
    return pb_utils.InferenceResponse(output_tensors=[], error=error)
