"""Whisper through faster-whisper, whose network CTranslate2 computes.

All windows of all recordings of a call that are in one language are one batch. Word times are measured: the
attention of the decoder to the sound says when each token was spoken (`WhisperModel.find_alignment`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens, merge_punctuations

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import EngineSource, RecognizedWord, Samples
from orchestrator.engines.checks import options_in, reason_of
from orchestrator.engines.whisper import ct2_folder
from orchestrator.engines.whisper.quality import Decoding, Effort
from orchestrator.engines.whisper.recognizer import WhisperRecognizer
from orchestrator.errors import InferenceError, ModelLoadError
from orchestrator.settings_engines import WhisperSettings

logger = logging.getLogger(__name__)
ENGINE: Final = "whisper_ct2"

_PREPENDED: Final = "\"'“¿([{-"
_APPENDED: Final = "\"'.。,，!！?？:：”)]}、"
"""Marks that belong to the word after, and before them."""
_NO_REPEAT: Final = {"repetition_penalty": 1.1, "no_repeat_ngram_size": 4}
_BEST_OF: Final = 5
"""Texts that are drawn at a temperature; the likeliest is taken."""
_MAX_TOKENS: Final = 224
"""Half of the decoder's positions, as in OpenAI's own: nobody says more in 30 s."""
_BLACKWELL_CONSUMER: Final = 12
"""Major compute capability of GB10 and the RTX 50 series, for which cuBLAS has no int8 kernels that
CTranslate2 can use."""


def compute_type_of(asked: str, device: str, capability: tuple[int, int] | None) -> str:
    """What the network is computed in.

    Args:
        asked: `WhisperSettings.compute_type`.
        device: ``cpu`` or ``cuda``.
        capability: of the GPU; None for a CPU.
    """
    if asked == "auto":
        return "float16" if device == "cuda" else "float32"
    if "int8" in asked and capability is not None and capability[0] == _BLACKWELL_CONSUMER:
        return "float16"
    return asked


def load(source: EngineSource) -> WhisperCt2Recognizer:
    """Load a model that CTranslate2's converter wrote from ``source.folder``.

    ``source.options`` are `WhisperSettings`.

    Raises:
        ConfigurationError: an option is unknown or wrong.
        ModelLoadError: a file is missing, damaged or another model's, or the device cannot compute it.
    """
    settings = options_in(source, WhisperSettings, ENGINE)
    files = ct2_folder.files_in(source.folder)
    codes = ct2_folder.codes_in(files)
    device, _, number = source.device.partition(":")
    index = int(number or 0)
    compute_type = compute_type_of(settings.compute_type, device, _capability(device, index))
    if settings.compute_type not in ("auto", compute_type):
        logger.warning("%s does not work on this GPU: %s instead", settings.compute_type, compute_type)
    try:
        model = WhisperModel(
            str(source.folder),
            device=device,
            device_index=index,
            compute_type=compute_type,
            cpu_threads=source.threads or 0,
            local_files_only=True,
        )
    except (RuntimeError, ValueError, OSError, TypeError, KeyError) as error:
        raise ModelLoadError(
            f"CTranslate2 cannot load the model on {source.device} with {compute_type}: {reason_of(error)}",
            fix=_fix(str(error)),
            model=ENGINE,
            path=source.folder,
        ) from error
    except Exception as error:  # the tokenizers library raises Exception itself, and no other
        if type(error) is not Exception:
            raise
        raise ModelLoadError(
            f"{ct2_folder.TOKENIZER} is not Whisper's tokenizer: {reason_of(error)}",
            fix="copy it there from the weights that were converted.",
            model=ENGINE,
            path=source.folder,
        ) from error
    return WhisperCt2Recognizer(model, codes, settings)


class WhisperCt2Recognizer(WhisperRecognizer):
    """Whisper in CTranslate2, which is thread-safe."""

    def __init__(self, model: WhisperModel, codes: Sequence[str], settings: WhisperSettings) -> None:
        super().__init__(ENGINE, codes, batch_size=settings.batch_size, temperatures=settings.temperatures)
        self._model: Any = model
        self._beam_size = settings.beam_size
        self._tokenizers = {code: self._tokenizer(code) for code in codes}
        self._suppressed = get_suppressed_tokens(self._tokenizers[codes[0]], [-1])

    def close(self) -> None:
        """Free the weights."""
        self._model.model.unload_model()

    def _tokenizer(self, code: str) -> Any:
        many = self._model.model.is_multilingual
        return Tokenizer(self._model.hf_tokenizer, many, task="transcribe", language=code)

    def _detect(self, windows: Sequence[Samples]) -> Sequence[Mapping[str, float]]:
        try:
            tables = self._model.model.detect_language(self._encode(windows))
        except (RuntimeError, ValueError) as error:
            raise self._failed(error) from error
        # Tokens look like <|en|>.
        return [{token[2:-2]: float(share) for token, share in table} for table in tables]

    def _decode(self, windows: Sequence[Samples], code: str, effort: Effort) -> Sequence[Decoding]:
        tokenizer = self._tokenizers[code]
        prompt = self._model.get_prompt(tokenizer, [], without_timestamps=True)
        try:
            encoded = self._encode(windows)
            results = self._model.model.generate(
                encoded,
                [prompt] * len(windows),
                max_length=len(prompt) + _MAX_TOKENS,
                return_scores=True,
                return_no_speech_prob=True,
                suppress_blank=True,
                suppress_tokens=self._suppressed,
                **self._search(effort),
            )
            said = [[token for token in one.sequences_ids[0] if token < tokenizer.eot] for one in results]
            frames = [-(-window.size * self._model.frames_per_second // SAMPLE_RATE_HZ) for window in windows]
            aligned = self._model.find_alignment(tokenizer, said, encoded, frames)
        except (RuntimeError, ValueError, IndexError) as error:
            raise self._failed(error) from error
        decodings = []
        for result, alignment in zip(results, aligned, strict=True):
            merge_punctuations(alignment, _PREPENDED, _APPENDED)
            # The score is the mean over the tokens; the end token counts as one more.
            count = len(result.sequences_ids[0])
            decodings.append(
                Decoding(
                    words=tuple(_word(timing) for timing in alignment),
                    mean_log_probability=result.scores[0] * count / (count + 1),
                    no_speech=result.no_speech_prob,
                )
            )
        return decodings

    def _search(self, effort: Effort) -> dict[str, Any]:
        if effort.temperature > 0:
            return {
                "beam_size": 1,
                "num_hypotheses": _BEST_OF,
                "sampling_topk": 0,
                "sampling_temperature": effort.temperature,
            }
        return {"beam_size": self._beam_size, **(_NO_REPEAT if effort.no_repeats else {})}

    def _encode(self, windows: Sequence[Samples]) -> Any:
        features = [pad_or_trim(self._model.feature_extractor(window)) for window in windows]
        return self._model.encode(np.stack(features))

    def _failed(self, error: Exception) -> InferenceError:
        return InferenceError(
            f"CTranslate2 failed: {reason_of(error)}",
            fix="where the memory was too small, make whisper.batch_size smaller and build again.",
            model=ENGINE,
        )


def _word(timing: Mapping[str, Any]) -> RecognizedWord:
    return RecognizedWord(
        text=timing["word"],
        start_ms=round(float(timing["start"]) * 1000),
        end_ms=round(float(timing["end"]) * 1000),
        confidence=float(timing["probability"]),
    )


def _capability(device: str, index: int) -> tuple[int, int] | None:
    """The GPU's compute capability; None where there is none that torch knows of."""
    if device != "cuda":
        return None
    import torch  # a CPU need not wait for it here

    return torch.cuda.get_device_capability(index) if torch.cuda.device_count() > index else None


def _fix(reason: str) -> str:
    if "CUDA" in reason or "cuda" in reason or "libcu" in reason:
        return (
            f"CTranslate2 {ctranslate2.__version__} must be one that was built with CUDA for this GPU: "
            "install it, or build the release with build.device = cpu."
        )
    if "compute type" in reason:
        return "set whisper.compute_type to auto, and build the release again."
    return ct2_folder.CONVERT
