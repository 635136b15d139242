"""Answers to the chunks of live streams: most say that nothing is new, and are made quickly.

Making one tensor costs Triton's Python backend 10 to 20 microseconds, and an answer has eleven. Tensors
without words are made once and shared by all answers that need them: Triton only reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

import numpy as np

from orchestrator import contract
from orchestrator.backend.chunks import ChunkJob
from orchestrator.backend.tensors import text_tensor
from orchestrator.backend.wire import TritonUtils, batched, cancelled_response, failed_response
from orchestrator.contract import TensorSpec
from orchestrator.engines.streaming import StreamSegment
from orchestrator.errors import InferenceError

SHARED_TENSORS: Final = 8192
"""Short tensors that are kept: times are multiples of 80 ms, utterances have small numbers and few words, and
many streams need the same ones."""
_NUMPY: Final[dict[str, type[np.generic]]] = {
    "INT32": np.int32,
    "INT64": np.int64,
    "FP32": np.float32,
    "BOOL": np.bool_,
}


class Replies:
    """Makes the responses of one model."""

    def __init__(self, pb_utils: TritonUtils) -> None:
        self._pb_utils = pb_utils
        self._shared = lru_cache(maxsize=SHARED_TENSORS)(self._tensor)
        self._nothing = self._segments(())

    def __call__(self, jobs: Sequence[ChunkJob]) -> list[Any]:
        """One Triton response a job, in order: what is new, or an error that the client can decode."""
        return [self._response(job) for job in jobs]

    def _response(self, job: ChunkJob) -> Any:
        if job.cancelled:
            return cancelled_response(self._pb_utils)
        update = job.update
        if update is None:
            return failed_response(job.fault or InferenceError("the model gave no result"), self._pb_utils)
        tensors = [
            *(self._segments(update.segments) if update.segments else self._nothing),
            self._shared(contract.PROCESSED_MS, (update.processed_ms,)),
            self._shared(contract.FINAL_MS, (update.final_ms,)),
            self._shared(contract.LANGUAGE, (update.language,)),
        ]
        return self._pb_utils.InferenceResponse(output_tensors=tensors)

    def _segments(self, segments: Sequence[StreamSegment]) -> list[Any]:
        """The words of S segments, W in all: ``[1, W]`` each, and what is known of them: ``[1, S]`` each."""
        words = list(chain.from_iterable(segment.words for segment in segments))
        return [
            self._tensor(contract.WORD, [word.text for word in words]),
            self._tensor(contract.WORD_START_MS, [word.start_ms for word in words]),
            self._tensor(contract.WORD_END_MS, [word.end_ms for word in words]),
            self._tensor(contract.WORD_CONFIDENCE, [word.confidence for word in words]),
            self._shared(contract.SEGMENT_UTTERANCE, tuple(segment.utterance for segment in segments)),
            self._shared(contract.SEGMENT_WORDS, tuple(len(segment.words) for segment in segments)),
            self._shared(contract.SEGMENT_FINAL, tuple(segment.final for segment in segments)),
            self._shared(contract.SEGMENT_STABILITY, tuple(segment.stability for segment in segments)),
        ]

    def _tensor(self, spec: TensorSpec, values: Sequence[Any]) -> Any:
        if spec.datatype == "BYTES":
            array = text_tensor(values)
        else:
            array = np.array(values, dtype=_NUMPY[spec.datatype])
        return self._pb_utils.Tensor(spec.name, batched(array))
