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
from numpy.typing import NDArray

from orchestrator import contract
from orchestrator.backend.chunks import ChunkJob
from orchestrator.backend.tensors import text_tensor
from orchestrator.backend.wire import Tensors, TritonUtils, batched, cancelled_response, failed_response
from orchestrator.contract import TensorSpec
from orchestrator.engines.streaming import StreamSegment
from orchestrator.errors import InferenceError

SHARED_NUMBERS: Final = 8192
"""Tensors of one number that are kept: times are multiples of 80 ms, and streams that began at about the same
time need the same ones."""


class Replies:
    """Makes the responses of one model."""

    def __init__(self, pb_utils: TritonUtils) -> None:
        self._pb_utils = pb_utils
        self._nothing = self._tensors(segment_tensors(()))
        self._number = lru_cache(maxsize=SHARED_NUMBERS)(self._new_number)
        self._language = lru_cache(maxsize=64)(self._new_language)

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
            *(self._tensors(segment_tensors(update.segments)) if update.segments else self._nothing),
            self._number(contract.PROCESSED_MS.name, update.processed_ms),
            self._number(contract.FINAL_MS.name, update.final_ms),
            self._language(update.language),
        ]
        return self._pb_utils.InferenceResponse(output_tensors=tensors)

    def _tensors(self, values: Tensors) -> list[Any]:
        return [self._pb_utils.Tensor(name, batched(array)) for name, array in values.items()]

    def _new_number(self, name: str, value: int) -> Any:
        return self._pb_utils.Tensor(name, np.array([[value]], dtype=np.int64))

    def _new_language(self, tag: str) -> Any:
        return self._pb_utils.Tensor(contract.LANGUAGE.name, batched(text_tensor([tag])))


def segment_tensors(segments: Sequence[StreamSegment]) -> Tensors:
    """The words of S segments, W in all: ``[W]`` each, and what is known of the segments: ``[S]`` each."""
    words = list(chain.from_iterable(segment.words for segment in segments))
    return {
        contract.WORD.name: text_tensor([word.text for word in words]),
        **_column(contract.WORD_START_MS, np.int32, [word.start_ms for word in words]),
        **_column(contract.WORD_END_MS, np.int32, [word.end_ms for word in words]),
        **_column(contract.WORD_CONFIDENCE, np.float32, [word.confidence for word in words]),
        **_column(contract.SEGMENT_UTTERANCE, np.int32, [segment.utterance for segment in segments]),
        **_column(contract.SEGMENT_WORDS, np.int32, [len(segment.words) for segment in segments]),
        **_column(contract.SEGMENT_FINAL, np.bool_, [segment.final for segment in segments]),
        **_column(contract.SEGMENT_STABILITY, np.float32, [segment.stability for segment in segments]),
    }


def _column(spec: TensorSpec, kind: type[np.generic], values: Sequence[Any]) -> dict[str, NDArray[Any]]:
    return {spec.name: np.array(values, dtype=kind)}
