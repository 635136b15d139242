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
from pathlib import Path
from typing import ClassVar, Final, Literal, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
from orchestrator.engines.fastconformer import loading
from orchestrator.engines.fastconformer.model import FastModel
from orchestrator.engines.nemo_batches import plan_batches, run_splitting
from orchestrator.errors import (
    AudioValueError,
    ConfigurationError,
    InferenceError,
    MissingDependencyError,
    ModelLoadError,
    UnsupportedLanguageError,
    UnsupportedModelError,
)

_LOG: Final = logging.getLogger(__name__)

_MAX_WINDOW_S: Final = 300.0
"""Full attention: time and memory grow with the square of the length."""
_MIN_FEATURE_FRAMES: Final = 2
"""Features are normalised by their own deviation over time, which one frame does not have."""
_CPU_PADDED_S: Final = 240.0
_GPU_PADDED_S: Final = 4096.0
"""More than this in one step gains nothing on any GPU so far."""
_PADDED_SECOND_BYTES: Final = 8_000_000
"""What a step of the 0.6B shape needs for a second of padded audio, most of it in the subsampling."""


class ParakeetOptions(BaseModel):
    """What `EngineSource.options` may hold for this engine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    languages: tuple[str, ...] = ()
    """BCP-47 primary tags of the weights; a checkpoint that names its own comes first, ``("en",)`` last."""
    runtime: Literal["auto", "native", "nemo"] = "auto"
    """``auto``: native, and NeMo only for checkpoints that the native runtime cannot compute."""
    head: Literal["transducer", "ctc"] = "transducer"
    """Which head of a hybrid decodes."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the native runtime's matrix products; ``auto``: float32 on a CPU, elsewhere what the build chose, or
    bfloat16 for a ``.nemo`` file. NeMo computes in float32."""
    cuda_graphs: bool = True
    """Replay captured graphs where the device is CUDA."""
    max_batch: int = Field(default=128, ge=1)
    """The most recordings in one step."""
    max_padded_s: float | None = Field(default=None, gt=0)
    """The most audio in one step, in seconds once padded; None: 240 on a CPU, by the memory of a GPU."""
    warm_up: bool = True
    """On CUDA: recognise a little noise while loading, so that the first request does not pay for it."""


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
        options = _options(source)
        device = _device(source.device)
        if source.threads is not None:
            torch.set_num_threads(source.threads)
        self._model = _model(source.folder, device, options)
        self._device = device
        self._max_batch = options.max_batch
        self._max_padded_s = options.max_padded_s or _default_padded_s(device)
        languages = self._model.languages or tuple(map(_primary_tag, options.languages)) or ("en",)
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

    def _may_hold_words(self, clip: Samples | Pcm16) -> bool:
        return self._model.feature_frames(clip.size) >= _MIN_FEATURE_FRAMES and _sounds(clip)

    def _run(
        self, clips: Sequence[Samples | Pcm16], items: Sequence[int]
    ) -> list[tuple[RecognizedWord, ...]]:
        try:
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

    def _step(
        self, clips: Sequence[Samples | Pcm16], items: Sequence[int]
    ) -> list[tuple[RecognizedWord, ...]]:
        """One pass of the model over the recordings ``items``."""
        chosen = [clips[item] for item in items]
        tokens = self._model.tokens(padded(chosen, device=self._device), [clip.size for clip in chosen])
        return nemo_words.words(tokens, self._model.vocabulary, self._model.frame_ms)


def _model(folder: Path, device: torch.device, options: ParakeetOptions) -> AcousticModel:
    """What is in the folder, in the runtime that the options ask for; NeMo is imported only for itself."""
    prefer_ctc = options.head == "ctc"
    try:
        if options.runtime != "nemo":
            try:
                return FastModel(
                    folder,
                    device,
                    prefer_ctc=prefer_ctc,
                    precision=options.precision,
                    cuda_graphs=options.cuda_graphs,
                )
            except UnsupportedModelError as error:
                if options.runtime == "native":
                    raise
                _LOG.info("%s: using NeMo", error.message)
        path = folder / loading.CHECKPOINT_NAME
        if loading.is_lean(folder) and not path.exists():
            raise ConfigurationError(
                f"NeMo cannot run what is in {folder}: the release was built for the native runtime.",
                fix="set the engine's option runtime to auto, or load the folder of a .nemo file.",
                model="parakeet",
            )
        from orchestrator.engines import nemo_archive

        checkpoint = nemo_archive.read(path)  # before NeMo's import: wrong files are refused at once
        from orchestrator.engines.nemo_model import NemoModel

        return NemoModel(path, checkpoint, device, prefer_ctc=prefer_ctc, cuda_graphs=options.cuda_graphs)
    except ImportError as error:
        raise MissingDependencyError(
            f"The checkpoint in {folder} needs a library that is not installed: {error}",
            fix="run: pip install 'spark-speech[serve]', or serve a release, which needs only torch.",
            model="parakeet",
        ) from error


def _default_padded_s(device: torch.device) -> float:
    """As much audio as a step can hold in a share of the device's memory."""
    if device.type != "cuda":
        return _CPU_PADDED_S
    properties = torch.cuda.get_device_properties(device)
    # Memory that the GPU shares with the processor is needed by everything else, too.
    share = properties.total_memory // (8 if properties.is_integrated else 4)
    return float(min(max(share // _PADDED_SECOND_BYTES, _CPU_PADDED_S), _GPU_PADDED_S))


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


def _checked(samples: Samples | Pcm16, item: int) -> Samples | Pcm16:
    clip = np.asarray(samples)
    if clip.ndim != 1 or not (clip.dtype.kind == "f" or clip.dtype == np.int16):
        raise AudioValueError(
            f"Recording {item} of the batch is {clip.dtype} of shape {list(clip.shape)}.",
            fix="pass one-dimensional arrays of float32 or int16 at 16 kHz.",
        )
    if clip.dtype == np.int16:
        return cast("Pcm16", clip)
    with np.errstate(over="ignore"):
        clip = clip.astype(np.float32, copy=False)
    # The sum of squares is finite for all but absurd samples, and far faster to find.
    if not (np.isfinite(np.dot(clip, clip)) or np.isfinite(clip).all()):
        raise AudioValueError(
            f"Recording {item} of the batch holds NaN or infinite samples.", fix="decode the audio again."
        )
    return cast("Samples", clip)


def _sounds(clip: Samples | Pcm16) -> bool:
    """Whether any sample is not zero; most recordings tell within the first second."""
    return bool(clip[:SAMPLE_RATE_HZ].any()) or bool(clip.any())
