"""Results as the output tensors of `orchestrator.contract`, without the leading batch dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator import contract
from orchestrator.backend.wire import Tensors
from orchestrator.diarization.base import Diarization, SpeakerTurn
from orchestrator.engines.alignment.base import Alignment
from orchestrator.engines.base import Recognition


def recognition_tensors(recognition: Recognition) -> Tensors:
    """The outputs of `contract.RECOGNIZER`, and LANGUAGE_CONFIDENCE where it was measured; W words give shape
    ``[W]``."""
    words = recognition.words
    sure = recognition.language_confidence
    measured = {} if sure is None else {contract.LANGUAGE_CONFIDENCE.name: np.array([sure], dtype=np.float32)}
    return {
        contract.WORD.name: text_tensor([word.text for word in words]),
        contract.WORD_START_MS.name: np.array([word.start_ms for word in words], dtype=np.int32),
        contract.WORD_END_MS.name: np.array([word.end_ms for word in words], dtype=np.int32),
        contract.WORD_CONFIDENCE.name: np.array([word.confidence for word in words], dtype=np.float32),
        contract.LANGUAGE.name: text_tensor([recognition.language]),
        contract.TIMES_ESTIMATED.name: np.array([recognition.times_estimated], dtype=np.bool_),
        **measured,
    }


def alignment_tensors(alignment: Alignment) -> Tensors:
    """The outputs of `contract.ALIGNER`; W words give shape ``[W]``."""
    return {
        contract.WORD_START_MS.name: np.array([word.start_ms for word in alignment], dtype=np.int32),
        contract.WORD_END_MS.name: np.array([word.end_ms for word in alignment], dtype=np.int32),
        contract.WORD_CONFIDENCE.name: np.array([word.confidence for word in alignment], dtype=np.float32),
        contract.WORD_MEASURED.name: np.array([word.measured for word in alignment], dtype=np.bool_),
    }


def diarization_tensors(diarization: Diarization) -> Tensors:
    """The outputs of `contract.DIARIZER`; T turns give ``[T]``, S speakers of size D give ``[S, D]``."""
    turns, exclusive = _turns(diarization.turns), _turns(diarization.exclusive)
    return {
        contract.TURN_START_MS.name: turns[0],
        contract.TURN_END_MS.name: turns[1],
        contract.TURN_SPEAKER.name: turns[2],
        contract.EXCLUSIVE_START_MS.name: exclusive[0],
        contract.EXCLUSIVE_END_MS.name: exclusive[1],
        contract.EXCLUSIVE_SPEAKER.name: exclusive[2],
        contract.SPEAKER_EMBEDDING.name: np.ascontiguousarray(diarization.embeddings, dtype=np.float32),
    }


def _turns(turns: Sequence[SpeakerTurn]) -> NDArray[np.int32]:
    rows = [(turn.start_ms, turn.end_ms, turn.speaker) for turn in turns]
    return np.ascontiguousarray(np.array(rows, dtype=np.int32).reshape(-1, 3).T)


def text_tensor(values: Sequence[str]) -> NDArray[Any]:
    """Triton's BYTES: an object array of UTF-8 bytes, also where there is nothing in it."""
    array = np.empty(len(values), dtype=np.object_)
    array[:] = [value.encode("utf-8") for value in values]
    return array
