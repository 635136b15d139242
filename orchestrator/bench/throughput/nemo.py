"""NeMo in this process, for comparison; only where NeMo is installed."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.bench.throughput.benchmark import Measure
from orchestrator.bench.throughput.clips import batch, clips
from orchestrator.bench.throughput.rows import Line, timed
from orchestrator.bench.throughput.twin import twin
from orchestrator.engines.base import PCM16_SCALE, Pcm16
from orchestrator.errors import MissingDependencyError, ModelLoadError
from orchestrator.progress import ProgressTask
from orchestrator.repository.config import Device


def measured(weights: Path, device: Device, sound: Pcm16, measure: Measure, task: ProgressTask) -> list[Line]:
    """NeMo's time for each size of batch: its modules in memory, and `transcribe` without and with times.

    Args:
        weights: a ``.nemo`` file, or the folder of a lean recogniser.
        device: where to compute.
        sound: what is recognised.
        measure: how much.
        task: where to say how far it is.

    Raises:
        MissingDependencyError: NeMo is not installed.
        ModelLoadError: it cannot load ``weights``.
    """
    # NeMo writes notes on standard output, where the report goes.
    with contextlib.redirect_stdout(sys.stderr):
        model = twin(weights, device) if weights.is_dir() else _restored(weights, device)
        return _lines(model, device, sound, measure, task)


def _lines(model: Any, device: Device, sound: Pcm16, measure: Measure, task: ProgressTask) -> list[Line]:
    lines = []
    for size in measure.batches:
        recordings = [
            piece.astype(np.float32) / PCM16_SCALE for piece in batch(clips(sound, measure.clip_s), size)
        ]
        for what, call in (
            ("NeMo's modules in memory, text alone", _in_memory(model, device, recordings)),
            ("NeMo's transcribe, text alone", _transcriber(model, device, recordings, times=False)),
            ("NeMo's transcribe, word times", _transcriber(model, device, recordings, times=True)),
        ):
            task.update(description=f"{what}: batch {size}")
            walls, words = _walls(call, measure.repeats)
            lines.append(timed(what, measure.clip_s, size, walls, words))
    return lines


def _restored(checkpoint: Path, device: Device) -> Any:
    try:
        import torch
        from nemo.collections.asr.models import ASRModel
    except ImportError as error:
        raise MissingDependencyError(
            f"NeMo cannot be imported: {error}", fix="leave --nemo out, or pip install 'spark-speech[serve]'"
        ) from error
    try:
        model = ASRModel.restore_from(str(checkpoint), map_location=torch.device(device))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ModelLoadError(f"NeMo cannot load it: {error}", path=checkpoint) from error
    return model.to(device).eval()


def _in_memory(
    model: Any, device: Device, recordings: Sequence[np.ndarray[Any, Any]]
) -> Callable[[], Sequence[Any]]:
    """Features, encoder and decoder by hand, without the files and data loaders of `transcribe`."""
    import torch

    lengths = torch.tensor([len(recording) for recording in recordings])
    audio = torch.zeros((len(recordings), int(lengths.max())))
    for row, recording in zip(audio, recordings, strict=True):
        row[: len(recording)] = torch.from_numpy(recording)

    @torch.inference_mode()
    def call() -> Sequence[Any]:
        model.eval()  # `transcribe` leaves the modules in training
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            mel, frames = model.preprocessor(input_signal=audio.to(device), length=lengths.to(device))
            encoded, encoded_frames = model.encoder(audio_signal=mel, length=frames)
            found: Sequence[Any] = model.decoding.rnnt_decoder_predictions_tensor(
                encoder_output=encoded, encoded_lengths=encoded_frames, return_hypotheses=True
            )
        return found

    return call


def _transcriber(
    model: Any, device: Device, recordings: Sequence[np.ndarray[Any, Any]], *, times: bool
) -> Callable[[], Sequence[Any]]:
    import torch

    def call() -> Sequence[Any]:
        # As NeMo's own scripts do it: bfloat16 where it is safe.
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            found: Sequence[Any] = model.transcribe(
                list(recordings), batch_size=len(recordings), timestamps=times, verbose=False, num_workers=0
            )
        return found

    return call


def _walls(call: Callable[[], Sequence[Any]], repeats: int) -> tuple[list[float], int]:
    walls, words = [], 0
    for number in range(repeats + 1):
        begin = time.perf_counter()
        found = call()
        if number:
            walls.append(time.perf_counter() - begin)
        words = sum(len(hypothesis.text.split()) for hypothesis in found)
    return walls, words
