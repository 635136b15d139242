"""NVIDIA Parakeet: FastConformer with a TDT, RNN-T, CTC or hybrid head, from a NeMo checkpoint (``.nemo``).

Two runtimes compute the same words: ``nemo`` runs NeMo's own modules, ``native`` this project's
(`orchestrator.engines.fastconformer`), which need no NeMo and so none of the 8 to 25 s of its import.

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
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines import nemo_archive, nemo_words
from orchestrator.engines.acoustic import AcousticModel
from orchestrator.engines.base import (
    EngineInfo,
    EngineSource,
    Recognition,
    RecognitionOptions,
    RecognizedWord,
    Recognizer,
    Samples,
)
from orchestrator.engines.nemo_archive import Checkpoint
from orchestrator.engines.nemo_batches import plan_batches, run_splitting
from orchestrator.errors import (
    AudioValueError,
    ConfigurationError,
    InferenceError,
    ModelLoadError,
    UnsupportedLanguageError,
    UnsupportedModelError,
)

CHECKPOINT_NAME: Final = "model.nemo"

_LOG: Final = logging.getLogger(__name__)

_MAX_WINDOW_S: Final = 300.0
"""Full attention: time and memory grow with the square of the length."""
_MIN_FEATURE_FRAMES: Final = 2
"""Features are normalised by their own deviation over time, which one frame does not have."""


class ParakeetOptions(BaseModel):
    """What `EngineSource.options` may hold for this engine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    languages: tuple[str, ...] = ()
    """BCP-47 primary tags of the weights; a checkpoint that names its own comes first, ``("en",)`` last."""
    runtime: Literal["auto", "native", "nemo"] = "auto"
    """``auto``: native on a CPU for all checkpoints it can compute; NeMo, with its CUDA graphs, otherwise."""
    head: Literal["transducer", "ctc"] = "transducer"
    """Which head of a hybrid decodes."""
    precision: Literal["float32"] = "float32"
    """Of the encoder."""
    cuda_graphs: bool = True
    """Decode with CUDA graphs where the device is CUDA and the runtime is NeMo."""
    max_batch: int = Field(default=128, ge=1)
    """The most recordings in one step."""
    max_padded_s: float | None = Field(default=None, gt=0)
    """The most audio in one step, in seconds once padded; None for 1,920 on CUDA and 240 elsewhere."""


def load(source: EngineSource) -> ParakeetRecognizer:
    """Load ``model.nemo`` from ``source.folder``.

    Raises:
        ModelLoadError: the file is missing, corrupt, or not a checkpoint that this engine runs.
        ConfigurationError: an unknown or invalid option.
    """
    return ParakeetRecognizer(source)


class ParakeetRecognizer(Recognizer):
    """A loaded checkpoint. Thread-safe: one batch at a time has the model.

    Raises:
        ModelLoadError: the file is missing, corrupt, not a checkpoint that this engine runs, or the device
            is not there.
        ConfigurationError: an unknown or invalid option.
    """

    def __init__(self, source: EngineSource) -> None:
        options = _options(source)
        path = source.folder / CHECKPOINT_NAME
        # Before NeMo's import, which takes many seconds: most wrong files are refused at once.
        checkpoint = nemo_archive.read(path)
        device = _device(source.device)
        if source.threads is not None:
            torch.set_num_threads(source.threads)
        self._model = _model(path, checkpoint, device, options)
        self._device = device
        self._frame_ms = checkpoint.frame_ms
        self._max_batch = options.max_batch
        self._max_padded_s = options.max_padded_s or (1920.0 if device.type == "cuda" else 240.0)
        self._lock = threading.Lock()
        languages = checkpoint.languages or tuple(map(_primary_tag, options.languages)) or ("en",)
        self.info = EngineInfo(
            name="parakeet", languages=languages, times_estimated=False, max_window_s=_MAX_WINDOW_S
        )

    def recognize(
        self, batch: Sequence[Samples], options: RecognitionOptions | None = None
    ) -> list[Recognition]:
        """Recognise each recording of ``batch``; results in the same order.

        The model finds the language by itself and does not tell it: the result carries the requested
        language, or the first of the engine's. Digital silence and audio under two feature frames (20 ms)
        have no words.

        Raises:
            UnsupportedLanguageError: ``options.language`` is not one of the engine's.
            AudioValueError: an item is not a one-dimensional float array of finite numbers.
            InferenceError: the model failed, or a single recording does not fit into memory.
        """
        language = self._language(options.language if options else None)
        clips = [_checked(samples, item) for item, samples in enumerate(batch)]
        found: dict[int, tuple[RecognizedWord, ...]] = {}
        heard = [item for item, clip in enumerate(clips) if self._may_hold_words(clip)]
        groups = plan_batches(
            [clips[item].size for item in heard],
            max_padded=int(self._max_padded_s * SAMPLE_RATE_HZ),
            max_items=self._max_batch,
        )
        for group in groups:
            items = [heard[index] for index in group]
            found.update(zip(items, self._run(clips, items), strict=True))
        return [
            Recognition(words=found.get(item, ()), language=language, times_estimated=False)
            for item in range(len(clips))
        ]

    def close(self) -> None:
        """Free the model; further calls fail."""
        with self._lock:
            del self._model
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def _language(self, requested: str | None) -> str:
        known = self.info.languages
        if requested is None:
            return known[0]
        language = _primary_tag(requested)
        if language not in known:
            raise UnsupportedLanguageError(
                f"The model parakeet does not know the language {requested!r}.",
                fix=f"use one of {', '.join(known)}, or name no language.",
                model="parakeet",
            )
        return language

    def _may_hold_words(self, clip: Samples) -> bool:
        return self._model.feature_frames(clip.size) >= _MIN_FEATURE_FRAMES and bool(clip.any())

    def _run(self, clips: Sequence[Samples], items: Sequence[int]) -> list[tuple[RecognizedWord, ...]]:
        try:
            # By default convolutions on CUDA round to ten bits (TF32): enough for another batch to decide
            # another word.
            with self._lock, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                return run_splitting(
                    items,
                    functools.partial(self._step, clips),
                    out_of_memory=torch.OutOfMemoryError,
                    release=self._model.release,
                )
        except torch.OutOfMemoryError as error:
            longest_s = max(clips[item].size for item in items) / SAMPLE_RATE_HZ
            raise InferenceError(
                f"A recording of up to {longest_s:.0f} s does not fit into the memory of {self._device}.",
                fix="send shorter windows, or free memory on the device.",
                model="parakeet",
            ) from error
        except (RuntimeError, ValueError, TypeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InferenceError(
                f"The model parakeet failed on a batch of {len(items)}: {reason[:300]}", model="parakeet"
            ) from error

    def _step(self, clips: Sequence[Samples], items: Sequence[int]) -> list[tuple[RecognizedWord, ...]]:
        """One pass of the model over the recordings ``items``; the caller holds the lock."""
        lengths = [clips[item].size for item in items]
        padded = np.zeros((len(items), max(lengths)), dtype=np.float32)
        for row, item in enumerate(items):
            padded[row, : lengths[row]] = clips[item]
        tokens = self._model.tokens(padded, lengths)
        return nemo_words.words(tokens, self._model.vocabulary, self._frame_ms)


def _model(
    path: Path, checkpoint: Checkpoint, device: torch.device, options: ParakeetOptions
) -> AcousticModel:
    """The checkpoint in the runtime that the options ask for. NeMo is imported only where it is used."""
    prefer_ctc = options.head == "ctc"
    if options.runtime == "native" or (options.runtime == "auto" and device.type == "cpu"):
        from orchestrator.engines.fastconformer.model import FastModel

        try:
            return FastModel(path, device, prefer_ctc=prefer_ctc)
        except UnsupportedModelError as error:
            if options.runtime == "native":
                raise
            _LOG.info("%s: using NeMo", error.message)
    from orchestrator.engines.nemo_model import NemoModel

    return NemoModel(path, checkpoint, device, prefer_ctc=prefer_ctc, cuda_graphs=options.cuda_graphs)


def _options(source: EngineSource) -> ParakeetOptions:
    try:
        return ParakeetOptions.model_validate(source.options)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigurationError(
            f"The option {name!r} of the engine parakeet: {first['msg']}.",
            fix=f"the options are {', '.join(ParakeetOptions.model_fields)}.",
            model="parakeet",
        ) from error


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError(
            f"There is no torch device {name!r}.", fix="use cpu, cuda or cuda:<number>.", model="parakeet"
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelLoadError(
            f"The device {name} is not there: torch sees {torch.cuda.device_count()} CUDA devices.",
            fix="set the device to cpu, or repair the driver.",
            model="parakeet",
        )
    return device


def _primary_tag(language: str) -> str:
    return language.replace("_", "-").split("-")[0].lower()


def _checked(samples: Samples, item: int) -> Samples:
    clip = np.asarray(samples)
    if clip.ndim != 1 or clip.dtype.kind != "f":
        raise AudioValueError(
            f"Recording {item} of the batch is {clip.dtype} of shape {list(clip.shape)}.",
            fix="pass one-dimensional float32 arrays at 16 kHz.",
        )
    if not np.isfinite(clip).all():
        raise AudioValueError(
            f"Recording {item} of the batch holds NaN or infinite samples.", fix="decode the audio again."
        )
    return clip.astype(np.float32, copy=False)
