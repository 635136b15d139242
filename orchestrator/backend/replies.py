"""Answers to the chunks of live streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.backend import updates
from orchestrator.backend.chunks import ChunkJob
from orchestrator.backend.wire import TritonUtils, cancelled_response, failed_response
from orchestrator.contract import UPDATE
from orchestrator.errors import InferenceError


def replies(jobs: Sequence[ChunkJob], pb_utils: TritonUtils) -> list[Any]:
    """One Triton response a job, in order: what is new, or an error that the client can decode."""
    return [_reply(job, pb_utils) for job in jobs]


def _reply(job: ChunkJob, pb_utils: TritonUtils) -> Any:
    if job.cancelled:
        return cancelled_response(pb_utils)
    if job.update is None:
        return failed_response(job.fault or InferenceError("the model gave no result"), pb_utils)
    content = np.frombuffer(updates.encode(job.update), dtype=np.uint8)
    return pb_utils.InferenceResponse([pb_utils.Tensor(UPDATE.name, content.reshape(1, -1))])
