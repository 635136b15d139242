"""One window of at most 10 s through a pyannote pipeline's networks, without its clustering.

The segmentation network itself tells the speakers of one window apart. Clustering is there to link windows,
and its thresholds are tuned for whole recordings: on a few seconds it would join different speakers or drop
quiet ones. A live stream links its windows with `orchestrator.diarization.online` instead.

Import this module after `orchestrator.diarization.pyannote_import.import_pyannote`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pyannote.audio.utils.signal import binarize

from orchestrator.diarization.base import Diarization, SpeakerTurn

Active = NDArray[np.bool_]
"""Who is heard in which frame, ``[F, S]``."""
MS_PER_S: Final = 1000


def diarize_window(pipeline: Any, audio: dict[str, Any], duration_ms: int) -> Diarization:
    """The speakers of one window, each with the mean voice of their speech in it.

    Speakers are numbered by first appearance. Where two overlap, the exclusive turns give the time to the
    one who was speaking before.

    Args:
        pipeline: a pyannote ``SpeakerDiarization``.
        audio: its input, one segmentation window long at most.
        duration_ms: of the audio; turns end there.
    """
    segmentations = pipeline.get_segmentations(audio)
    if not pipeline._segmentation.model.specifications.powerset:
        segmentations = binarize(segmentations, onset=pipeline.segmentation.threshold, initial_state=False)
    active: Active = np.nan_to_num(segmentations.data[0]) > 0.5
    edges = _edges_ms(pipeline._segmentation.model.receptive_field, len(active), duration_ms)
    heard = np.flatnonzero((active & (np.diff(edges) > 0)[:, None]).any(axis=0))
    order = heard[np.argsort(active[:, heard].argmax(axis=0), kind="stable")]
    if order.size == 0:
        return Diarization((), (), np.zeros((0, pipeline._embedding.dimension), dtype=np.float32))
    embeddings = pipeline.get_embeddings(audio, segmentations, exclude_overlap=True)[0, order]
    return Diarization(
        _turns(active[:, order], edges),
        _turns(_exclusive(active[:, order]), edges),
        np.asarray(embeddings, dtype=np.float32),
    )


def _edges_ms(frames: Any, count: int, duration_ms: int) -> NDArray[np.int64]:
    """Where frames begin and end, ``[F + 1]`` whole ms: each around the middle of its receptive field."""
    first_s = frames.start + (frames.duration - frames.step) / 2
    edges = np.rint((first_s + np.arange(count + 1) * frames.step) * MS_PER_S)
    return np.asarray(np.clip(edges, 0, duration_ms), dtype=np.int64)


def _exclusive(active: Active) -> Active:
    """At most one speaker a frame: who spoke in the frame before goes on, else the lowest number."""
    alone = np.zeros_like(active)
    current = -1
    for frame, row in enumerate(active):
        if current < 0 or not row[current]:
            current = int(row.argmax()) if row.any() else -1
        if current >= 0:
            alone[frame, current] = True
    return alone


def _turns(active: Active, edges: NDArray[np.int64]) -> tuple[SpeakerTurn, ...]:
    turns = []
    for speaker, frames in enumerate(active.T):
        changes = np.flatnonzero(np.diff(np.concatenate(([False], frames, [False])).astype(np.int8)))
        for begin, end in changes.reshape(-1, 2).tolist():
            if edges[begin] < edges[end]:
                turns.append(SpeakerTurn(int(edges[begin]), int(edges[end]), speaker))
    return tuple(sorted(turns, key=lambda turn: (turn.start_ms, turn.end_ms, turn.speaker)))
