"""Triton's requests of live streams, one chunk each, and what is wrong with one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.backend.context import ModelContext
from orchestrator.backend.wire import TritonUtils, is_cancelled, parse_options
from orchestrator.contract import PCM16, SAMPLE_RATE_HZ, STREAM_OPTIONS
from orchestrator.engines.base import PCM16_SCALE, Samples
from orchestrator.engines.streaming import ChunkOptions, StreamOptions, StreamUpdate
from orchestrator.errors import AudioTooLongError, AudioValueError, InvalidRequestError, SpeechError

StreamId = int | str
"""What Triton calls a correlation id: a number, or a text of the client's choice."""
_START: Final = 1
_END: Final = 2
"""Bits of a request's flags: TRITONSERVER_REQUEST_FLAG_SEQUENCE_START and _END in Triton's C API."""
_NO_STREAM_OPTIONS: Final = StreamOptions()


@dataclass(slots=True)
class ChunkJob:
    """One request: a chunk of one stream, then what it changed or why it failed.

    Attributes:
        stream: the stream's correlation id.
        start, end: whether it begins, or ends, the stream.
        samples: float32 ``[n]`` at 16 kHz, n may be 0; None where they cannot be used.
        opening: what the stream wants; None unless ``start``.
        force_end_of_utterance: see `ChunkOptions`.
        update: what the engine said.
        fault: why there is no update.
        cancelled: the client went away before its stream was opened.
    """

    stream: StreamId
    start: bool
    end: bool
    samples: Samples | None = None
    opening: StreamOptions | None = None
    force_end_of_utterance: bool = False
    update: StreamUpdate | None = None
    fault: SpeechError | None = None
    cancelled: bool = False

    @property
    def open(self) -> bool:
        """Whether it still wants the engine."""
        return self.update is None and self.fault is None and not self.cancelled


def read_chunks(requests: Sequence[Any], context: ModelContext, pb_utils: TritonUtils) -> list[ChunkJob]:
    """Take the chunk out of each request; what is wrong with one becomes that job's fault.

    Whether a client went away is asked only of those that begin a stream: asking costs more than reading a
    chunk, and a chunk of a stream that goes on has to be heard in any case.
    """
    jobs = []
    for request in requests:
        flags = request.flags()
        job = ChunkJob(request.correlation_id(), bool(flags & _START), bool(flags & _END))
        try:
            _read_options(job, request.parameters())
            job.samples = _samples(pb_utils.get_input_tensor_by_name(request, PCM16.name), context)
        except SpeechError as error:
            error.model = error.model or context.name
            job.fault = error
        if job.start:
            job.cancelled = is_cancelled(request)
        jobs.append(job)
    return jobs


def _read_options(job: ChunkJob, parameters: str) -> None:
    """``parameters``: the request's, as Triton gives them: a JSON object in text, empty for none."""
    # Triton reads the sequence's own parameters itself and leaves them out.
    given = json.loads(parameters).get(STREAM_OPTIONS) if STREAM_OPTIONS in parameters else None
    if job.start:
        job.opening = _NO_STREAM_OPTIONS if given is None else parse_options(_text(given), StreamOptions)
        job.force_end_of_utterance = job.opening.force_end_of_utterance
    elif given is not None:
        job.force_end_of_utterance = parse_options(_text(given), ChunkOptions).force_end_of_utterance


def _text(given: object) -> str:
    if not isinstance(given, str):
        raise InvalidRequestError(f"the parameter {STREAM_OPTIONS} is no text", fix="send JSON as text")
    return given


def _samples(tensor: Any, context: ModelContext) -> Samples:
    if tensor is None:
        raise InvalidRequestError("the request has no PCM16", fix="send PCM16, INT16 [1, n] at 16 kHz")
    values: NDArray[Any] = tensor.as_numpy()
    if values.dtype != np.int16:
        raise AudioValueError(f"PCM16 is {values.dtype}, not int16", fix="send 16-bit samples")
    if values.ndim != 2 or values.shape[0] != 1:
        raise AudioValueError(
            f"PCM16 has shape {list(values.shape)}, not [1, n]", fix="send one chunk a request"
        )
    if values.shape[1] > context.max_window_s * SAMPLE_RATE_HZ:
        raise AudioTooLongError(
            f"the chunk is {values.shape[1] / SAMPLE_RATE_HZ:.1f} s long; {context.name} takes at most "
            f"{context.max_window_s:g} s at once, because its other streams wait meanwhile",
            fix="send it in shorter chunks; the stream is as it was",
        )
    samples: Samples = np.multiply(values[0], np.float32(1 / PCM16_SCALE), dtype=np.float32)
    return samples
