"""The encoder of Moonshine tiny with a small CTC head of this project: the embedded emission source, English.

Moonshine's decoder gives no times, but its encoder has a frame for every 24 ms of real speech. The head on it
(two layers) was trained on synthetic speech alone by ``python -m orchestrator.training aligner``.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.alignment.base import HEAD_NAME, Emissions, Reach
from orchestrator.engines.alignment.spelling import Letters
from orchestrator.engines.base import Samples
from orchestrator.engines.checks import reason_of
from orchestrator.engines.onnx_session import FAULTS, open_session
from orchestrator.errors import InferenceError, ModelLoadError

ENCODER_NAME: Final = "encoder_model.ort"
ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz'"
"""The head's tokens 1 to 27; 0 is the blank."""
BLANK: Final = 0
STRIDE: Final = 384
"""Samples from one frame to the next: 64 x 3 x 2, the strides of the encoder's convolutions."""
_FIELD: Final = 895
"""Samples that a frame hears before attention: kernels of 127, 7 and 3 at these strides."""
_MS: Final = 1000 / SAMPLE_RATE_HZ
FRAME_MS: Final = STRIDE * _MS
_LATE_MS: Final = 80.0
"""A letter is told this long after it is heard: the median over words of festival's voices kal and ked is
79 to 87 ms for starts and 63 to 68 ms for ends. Of shifts of 0, 40, 60 and 80 ms and five reaches, this and
`_REACH` gave those voices the best times."""
FIRST_MS: Final = (_FIELD - STRIDE) / 2 * _MS - _LATE_MS
_LEAST: Final = SAMPLE_RATE_HZ // 2
"""Samples a recording is filled up to with silence: the convolutions fail below about 70 ms."""
_REACH: Final = Reach(before_ms=20.0, after_ms=40.0)

Floats = NDArray[np.float32]


class Head:
    """A convolution over frames, a rectifier, and one linear layer; weights by the names of `NAMES`."""

    NAMES: Final = ("conv.weight", "conv.bias", "out.weight", "out.bias")

    def __init__(self, weights: dict[str, Floats]) -> None:
        """Take ``conv.weight`` ``[H, D, K]`` (K odd), ``out.weight`` ``[V, H]``, and their biases.

        Raises:
            ValueError: a weight is missing, or they do not fit each other.
        """
        missing = [name for name in self.NAMES if name not in weights]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        conv, self._conv_bias, out, self._out_bias = (weights[name].astype(np.float32) for name in self.NAMES)
        if conv.ndim != 3 or out.shape != (len(ALPHABET) + 1, conv.shape[0]):
            raise ValueError("its weights do not fit each other")
        self._kernel = conv.shape[2]
        # [K * D, H]: one product with the K frames around each frame.
        self._conv = np.ascontiguousarray(conv.transpose(2, 1, 0).reshape(-1, conv.shape[0]))
        self._out = np.ascontiguousarray(out.T)

    def __call__(self, frames: Floats) -> Floats:
        """Natural logarithms of the tokens' probabilities ``[T, V]`` for ``[T, D]`` frames."""
        half = self._kernel // 2
        wide = np.pad(frames, ((half, half), (0, 0)))
        around = np.concatenate([wide[at : at + len(frames)] for at in range(self._kernel)], axis=1)
        logits = np.maximum(around @ self._conv + self._conv_bias, 0.0) @ self._out + self._out_bias
        top = logits.max(axis=1, keepdims=True)
        rows: Floats = (logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))).astype(
            np.float32
        )
        return rows


class Encoder:
    """Moonshine tiny's encoder on the CPU. Thread-safe."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Load ``encoder_model.ort``.

        Raises:
            ModelLoadError: it is missing or damaged.
        """
        try:
            self._session = open_session(path, threads)
        except FAULTS as error:
            raise ModelLoadError(
                f"The encoder {path} cannot be loaded: {reason_of(error)}",
                fix="build the release again: spark-speech build",
                model="aligner",
                path=path,
            ) from error

    def __call__(self, samples: Samples) -> Floats:
        """The frames ``[T, 288]`` of one recording.

        Raises:
            InferenceError: the model failed.
        """
        heard = np.pad(samples, (0, max(0, _LEAST - samples.size))).astype(np.float32)[None]
        try:
            answer = self._session.run(
                None, {"input_values": heard, "attention_mask": np.ones(heard.shape, dtype=np.int64)}
            )
        except FAULTS as error:
            raise InferenceError(f"The aligner failed: {reason_of(error)}", model="aligner") from error
        frames: Floats = answer[0][0]
        return frames


class MoonshineCtc:
    """An `EmissionSource` from a folder with the encoder and the head."""

    blank = BLANK
    languages: tuple[str, ...] = ("en",)
    reach = _REACH

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        """Load what is in ``folder``.

        Raises:
            ModelLoadError: the files are missing or damaged.
        """
        path = folder / HEAD_NAME
        try:
            self._head = Head(load_file(path))
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelLoadError(
                f"The aligner's head {path} cannot be read: {reason_of(error)}",
                fix="build the release again: spark-speech build",
                model="aligner",
                path=path,
            ) from error
        self._encoder = Encoder(folder / ENCODER_NAME, threads)
        self._lock = threading.Lock()
        self.speller = Letters({letter: number for number, letter in enumerate(ALPHABET, start=1)})

    def emissions(self, batch: Sequence[Samples]) -> list[Emissions]:
        """See `EmissionSource.emissions`."""
        with self._lock:
            return [Emissions(self._head(self._encoder(samples)), FIRST_MS, FRAME_MS) for samples in batch]
