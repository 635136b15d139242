"""wav2vec 2.0 and its kin (HuBERT, MMS, WavLM) with a CTC head, in the folder layout of transformers."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.alignment.base import Emissions, Reach
from orchestrator.engines.alignment.spelling import Letters
from orchestrator.engines.base import Samples
from orchestrator.engines.checks import reason_of
from orchestrator.errors import InferenceError, MissingDependencyError, ModelLoadError

CONFIG_NAME: Final = "config.json"
VOCABULARY_NAME: Final = "vocab.json"
_PREPROCESSOR_NAME: Final = "preprocessor_config.json"
_TOKENIZER_NAME: Final = "tokenizer_config.json"
_MS: Final = 1000 / SAMPLE_RATE_HZ
_REACH: Final = Reach(before_ms=20.0, after_ms=40.0)
_VARIANCE_FLOOR: Final = 1e-7
_LOAD_ERRORS: Final = (
    *(AttributeError, KeyError, OSError, RuntimeError),
    *(SafetensorError, TypeError, ValueError),
)


class Wav2Vec2Ctc:
    """An `EmissionSource` from a folder with config.json, vocab.json and the weights."""

    reach = _REACH

    def __init__(self, folder: Path, device: torch.device, languages: tuple[str, ...] = ()) -> None:
        """Load what is in ``folder``; ``languages`` are those of its vocabulary.

        Raises:
            ModelLoadError: the files are damaged or of another kind.
            MissingDependencyError: transformers is not installed.
        """
        try:
            from transformers import AutoModelForCTC
        except ImportError as error:
            raise MissingDependencyError(
                f"The aligner's weights in {folder} need the package transformers.",
                fix="run: pip install 'spark-speech[align]'",
                model="aligner",
            ) from error
        try:
            vocabulary = {str(text): int(token) for text, token in _read(folder / VOCABULARY_NAME).items()}
            special = _read(folder / _TOKENIZER_NAME, optional=True)
            prepared = _read(folder / _PREPROCESSOR_NAME, optional=True)
            model: Any = AutoModelForCTC.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
            config = model.config
            self.blank = int(config.pad_token_id)
            kernels, strides = tuple(config.conv_kernel), tuple(config.conv_stride)
            self._model = model.eval().requires_grad_(False).to(device)
        except _LOAD_ERRORS as error:
            raise ModelLoadError(
                f"The aligner's weights in {folder} cannot be loaded: {reason_of(error)}",
                fix="name a folder with config.json, vocab.json and the weights of a model such as "
                "facebook/wav2vec2-base-960h.",
                model="aligner",
                path=folder,
            ) from error
        separator = str(special.get("word_delimiter_token", "|"))
        self.speller = Letters(vocabulary, vocabulary.get(separator))
        self.languages = languages
        self._normalize = bool(prepared.get("do_normalize", True))
        self._device = device
        self._lock = threading.Lock()
        self._field, self._stride = _field(kernels, strides)

    def emissions(self, batch: Sequence[Samples]) -> list[Emissions]:
        """See `EmissionSource.emissions`. One by one: padding changes what many of these models hear."""
        return [self._one(samples) for samples in batch]

    @torch.inference_mode()
    def _one(self, samples: Samples) -> Emissions:
        heard = np.pad(samples, (0, max(0, self._field - samples.size))).astype(np.float32)
        if self._normalize:
            heard = ((heard - heard.mean()) / np.sqrt(heard.var() + _VARIANCE_FLOOR)).astype(np.float32)
        try:
            with self._lock:
                logits = self._model(torch.from_numpy(heard)[None].to(self._device)).logits[0]
                rows = logits.float().log_softmax(-1).cpu().numpy()
        except RuntimeError as error:
            raise InferenceError(f"The aligner failed: {reason_of(error)}", model="aligner") from error
        return Emissions(rows, (self._field - self._stride) / 2 * _MS, self._stride * _MS)


def _field(kernels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """The samples that one frame hears, and those from one to the next."""
    field, stride = 1, 1
    for kernel, step in zip(kernels, strides, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    return field, stride


def _read(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return found
