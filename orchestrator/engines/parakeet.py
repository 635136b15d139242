"""NVIDIA Parakeet: FastConformer with a TDT, RNN-T, CTC or hybrid head.

Two runtimes compute the same words: ``native`` is this project's (`orchestrator.engines.fastconformer`),
``nemo`` runs NeMo's own modules, whose import alone takes 8 to 25 s. The native one reads the lean form that
a build makes (`fastconformer.artifact`) as well as NeMo's checkpoints (``.nemo``).

Recognition happens in memory: features, encoder, decoder, words; no temporary files, manifest or data
loader. Text, word times and confidences equal those of NeMo 3.0's ``transcribe(timestamps=True)`` (words'
confidences: ``max_prob``, mean over the tokens), but for two faults of it that are repaired here:

- In batches of more than one, NeMo's TDT decoder without CUDA graphs gives wrong word *ends*: see
  `orchestrator.engines.nemo_decoding`.
- NeMo pads audio shorter than 1 s with silence on both sides and counts times from the start of the padding;
  here nothing is padded and times count from the first sample.

The same audio gives the same words alone or in any batch: nothing in the features or the encoder looks
beyond a recording's own samples. What remains is the rounding of floating point sums, which depends on the
batch's shape and is far below what decides between two tokens.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence
from typing import ClassVar, Final, cast

import numpy as np
import torch

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines import nemo_words
from orchestrator.engines.acoustic import AcousticModel, padded
from orchestrator.engines.base import (
    EngineInfo,
    EngineSource,
    Pcm16,
    Recognition,
    RecognitionOptions,
    RecognizedWord,
    Recognizer,
    Samples,
)
from orchestrator.engines.checks import language_in, options_in, primary_tag, reason_of
from orchestrator.engines.nemo_batches import plan_batches, run_splitting
from orchestrator.engines.parakeet_runtime import ParakeetOptions, default_padded_s, model_in
from orchestrator.engines.torch_device import device_of
from orchestrator.errors import AudioValueError, InferenceError

_LOG: Final = logging.getLogger(__name__)

_MAX_WINDOW_S: Final = 300.0
"""Full attention: time and memory grow with the square of the length."""
_MIN_FEATURE_FRAMES: Final = 2
"""Features are normalised by their own deviation over time, which one frame does not have."""


def load(source: EngineSource) -> ParakeetRecognizer:
    """Load ``model.safetensors`` and ``model.json``, or ``model.nemo``, from ``source.folder``.

    Raises:
        ModelLoadError: a file is missing, corrupt, or not a checkpoint that this engine runs.
        MissingDependencyError: the folder holds a checkpoint that needs a library which is not installed.
        ConfigurationError: an unknown or invalid option.
    """
    return ParakeetRecognizer(source)


class ParakeetRecognizer(Recognizer):
    """A loaded checkpoint. Thread-safe: what a call does on the host overlaps with another's on the device.

    Raises:
        ModelLoadError: a file is missing, corrupt, not a checkpoint that this engine runs, or the device is
            not there.
        MissingDependencyError: the folder holds a checkpoint that needs a library which is not installed.
        ConfigurationError: an unknown or invalid option.
    """

    takes_pcm16: ClassVar[bool] = True

    def __init__(self, source: EngineSource) -> None:
        options = options_in(source, ParakeetOptions, "parakeet")
        device = device_of(source.device, "parakeet")
        if source.threads is not None:
            torch.set_num_threads(source.threads)
        model = model_in(source.folder, device, options)
        self._model: AcousticModel | None = model
        self._device = device
        self._max_batch = options.max_batch
        self._max_padded_s = options.max_padded_s or default_padded_s(device)
        languages = model.languages or tuple(map(primary_tag, options.languages)) or ("en",)
        self.info = EngineInfo(
            name="parakeet", languages=languages, times_estimated=False, max_window_s=_MAX_WINDOW_S
        )
        if options.warm_up and device.type == "cuda":
            self.warm_up()

    def warm_up(self) -> None:
        """Recognise a second of noise, which brings the device's libraries and kernels into memory.

        Raises:
            InferenceError: the model failed.
        """
        begin = time.perf_counter()
        noise = np.random.default_rng(0).normal(0.0, 0.1, SAMPLE_RATE_HZ).astype(np.float32)
        self.recognize([noise])
        _LOG.debug("warm-up on %s: %.3f s", self._device, time.perf_counter() - begin)

    def recognize(
        self, batch: Sequence[Samples | Pcm16], options: RecognitionOptions | None = None
    ) -> list[Recognition]:
        """Recognise each recording of ``batch``; results in the same order.

        The model finds the language by itself and does not tell it: the result carries the requested
        language, or the first of the engine's. Digital silence and audio under two feature frames (20 ms)
        have no words.

        Raises:
            UnsupportedLanguageError: ``options.language`` is not one of the engine's.
            AudioValueError: an item is not a one-dimensional array of int16 or of finite floats.
            InferenceError: the model failed, or a single recording does not fit into memory.
        """
        model = self._model
        if model is None:
            raise InferenceError("The model parakeet is closed.", fix="load it again.", model="parakeet")
        requested = options.language if options else None
        language = language_in(self.info.languages, requested, "parakeet")
        clips = [_checked(samples, item) for item, samples in enumerate(batch)]
        found: dict[int, tuple[RecognizedWord, ...]] = {}
        heard = [item for item, clip in enumerate(clips) if _may_hold_words(clip, model)]
        groups = plan_batches(
            [clips[item].size for item in heard],
            max_padded=int(self._max_padded_s * SAMPLE_RATE_HZ),
            max_items=self._max_batch,
        )
        for group in groups:
            items = [heard[index] for index in group]
            found.update(zip(items, self._run(model, clips, items), strict=True))
        return [
            Recognition(words=found.get(item, ()), language=language, times_estimated=False)
            for item in range(len(clips))
        ]

    def close(self) -> None:
        """Free the model once running calls have ended; further calls fail."""
        self._model = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _run(
        self, model: AcousticModel, clips: Sequence[Samples | Pcm16], items: Sequence[int]
    ) -> list[tuple[RecognizedWord, ...]]:
        try:
            return run_splitting(
                items,
                functools.partial(self._step, model, clips),
                out_of_memory=torch.OutOfMemoryError,
                release=model.release,
            )
        except torch.OutOfMemoryError as error:
            longest_s = max(clips[item].size for item in items) / SAMPLE_RATE_HZ
            raise InferenceError(
                f"A recording of up to {longest_s:.0f} s does not fit into the memory of {self._device}.",
                fix="send shorter windows, or free memory on the device.",
                model="parakeet",
            ) from error
        except (RuntimeError, ValueError, TypeError) as error:
            raise InferenceError(
                f"The model parakeet failed on a batch of {len(items)}: {reason_of(error)}", model="parakeet"
            ) from error

    def _step(
        self, model: AcousticModel, clips: Sequence[Samples | Pcm16], items: Sequence[int]
    ) -> list[tuple[RecognizedWord, ...]]:
        """One pass of the model over the recordings ``items``."""
        chosen = [clips[item] for item in items]
        tokens = model.tokens(padded(chosen, device=self._device), [clip.size for clip in chosen])
        return nemo_words.words(tokens, model.vocabulary, model.frame_ms)


def _checked(samples: Samples | Pcm16, item: int) -> Samples | Pcm16:
    clip = np.asarray(samples)
    if clip.ndim != 1 or not (clip.dtype.kind == "f" or clip.dtype == np.int16):
        raise AudioValueError(
            f"Recording {item} of the batch is {clip.dtype} of shape {list(clip.shape)}.",
            fix="pass one-dimensional arrays of float32 or int16 at 16 kHz.",
        )
    if clip.dtype == np.int16:
        return cast("Pcm16", clip)
    with np.errstate(over="ignore", invalid="ignore"):
        clip = clip.astype(np.float32, copy=False)
        energy = np.dot(clip, clip)
    # The sum of squares is finite for all but absurd samples, and far faster to find.
    if not (np.isfinite(energy) or np.isfinite(clip).all()):
        raise AudioValueError(
            f"Recording {item} of the batch holds NaN or infinite samples.", fix="decode the audio again."
        )
    return cast("Samples", clip)


def _may_hold_words(clip: Samples | Pcm16, model: AcousticModel) -> bool:
    # Most recordings tell within a second that they are not silent.
    sounds = bool(clip[:SAMPLE_RATE_HZ].any()) or bool(clip.any())
    return sounds and model.feature_frames(clip.size) >= _MIN_FEATURE_FRAMES
