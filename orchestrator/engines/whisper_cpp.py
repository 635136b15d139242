"""Whisper through whisper.cpp, by its Python binding ``pywhispercpp``.

One file of weights in ggml's format, any of its quantizations, on the CPU or, where the binding was built so,
on a GPU. One context computes one window after the other; calls take turns.

Word times are whisper.cpp's own estimate from the sound's loudness between two time stamps, and marked as
such. The library has no penalty for repeated phrases: a window whose text is not sound is searched in the
other way, the likeliest token at a time where beams were followed, and beams otherwise. It leaves out text
where it takes a window for silence by itself, and does not say how likely that is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import _pywhispercpp as library
import numpy as np

from orchestrator.engines.base import EngineSource, Samples
from orchestrator.engines.checks import options_in
from orchestrator.engines.whisper import ggml
from orchestrator.engines.whisper.languages import UNSPACED
from orchestrator.engines.whisper.quality import Decoding, Effort
from orchestrator.engines.whisper.recognizer import WhisperRecognizer
from orchestrator.engines.whisper.words import TimedToken, grouped
from orchestrator.errors import InferenceError, ModelLoadError
from orchestrator.settings_engines import WhisperSettings

ENGINE: Final = "whisper_cpp"
_TICK_MS: Final = 10
"""whisper.cpp counts time in hundredths of a second."""
_BEAMS: Final = 5
_DEFAULT_THREADS: Final = 4
"""whisper.cpp's own."""


def load(source: EngineSource) -> WhisperCppRecognizer:
    """Load the ggml file in ``source.folder``; ``source.options`` are `WhisperSettings`.

    Raises:
        ConfigurationError: an option is unknown or wrong.
        ModelLoadError: there is no such file, it is damaged or another program's, or the device is a GPU that
            the library was not built for.
    """
    settings = options_in(source, WhisperSettings, ENGINE)
    path = source.folder / ggml.ARTIFACT
    # The library stops the whole process at some damaged files.
    codes = ggml.read(path).codes
    return WhisperCppRecognizer(_open(path, source.device), codes, settings, source.threads)


class WhisperCppRecognizer(WhisperRecognizer):
    """Whisper in whisper.cpp."""

    def __init__(
        self, context: Any, codes: Sequence[str], settings: WhisperSettings, threads: int | None
    ) -> None:
        super().__init__(ENGINE, codes, batch_size=settings.batch_size, temperatures=settings.temperatures)
        self._context = context
        self._threads = threads or _DEFAULT_THREADS
        self._beam_size = settings.beam_size
        self._lock = threading.Lock()

    def close(self) -> None:
        """Free the weights."""
        with self._lock:
            context, self._context = self._context, None
            if context is not None:
                library.whisper_free(context)

    def _detect(self, windows: Sequence[Samples]) -> Sequence[Mapping[str, float]]:
        with self._lock:
            return [self._languages(window) for window in windows]

    def _languages(self, window: Samples) -> dict[str, float]:
        shares = np.zeros(library.whisper_lang_max_id() + 1, np.float32)
        samples = np.ascontiguousarray(window)
        if library.whisper_pcm_to_mel(self._context, samples, samples.size, self._threads) != 0:
            raise self._failed("the spectrogram")
        if library.whisper_lang_auto_detect(self._context, 0, self._threads, shares) < 0:
            raise self._failed("finding out the language")
        return {library.whisper_lang_str(number): share for number, share in enumerate(shares.tolist())}

    def _decode(self, windows: Sequence[Samples], code: str, effort: Effort) -> Sequence[Decoding]:
        parameters = self._parameters(code, effort)
        with self._lock:
            return [self._window(window, code, parameters) for window in windows]

    def _window(self, window: Samples, code: str, parameters: Any) -> Decoding:
        samples = np.ascontiguousarray(window)
        if library.whisper_full(self._context, parameters, samples, samples.size) != 0:
            raise self._failed("decoding")
        tokens = list(self._tokens())
        likelihoods = [float(token.plog) for token in tokens]
        end = library.whisper_token_eot(self._context)
        texts = (
            TimedToken(
                library.whisper_token_to_bytes(self._context, token.id),
                token.t0 * _TICK_MS,
                token.t1 * _TICK_MS,
                float(token.p),
            )
            for token in tokens
            if token.id < end
        )
        return Decoding(
            words=tuple(grouped(texts, spaced=code not in UNSPACED)),
            mean_log_probability=sum(likelihoods) / len(likelihoods) if likelihoods else 0.0,
        )

    def _tokens(self) -> Iterator[Any]:
        """The tokens of the last window, time stamps included."""
        for segment in range(library.whisper_full_n_segments(self._context)):
            for number in range(library.whisper_full_n_tokens(self._context, segment)):
                yield library.whisper_full_get_token_data(self._context, segment, number)

    def _parameters(self, code: str, effort: Effort) -> Any:
        beams = self._beam_size
        if effort.no_repeats:
            beams = 1 if beams > 1 else _BEAMS
        if effort.temperature > 0:
            beams = 1
        kinds = library.whisper_sampling_strategy
        parameters = library.whisper_full_default_params(
            kinds.WHISPER_SAMPLING_BEAM_SEARCH if beams > 1 else kinds.WHISPER_SAMPLING_GREEDY
        )
        if beams > 1:
            parameters.beam_search = {"beam_size": beams, "patience": -1.0}
        parameters.language = code
        parameters.n_threads = self._threads
        parameters.temperature = effort.temperature
        parameters.temperature_inc = 0.0  # what is tried next, the windows' recogniser says
        parameters.no_context = True  # else a window's words would depend on the one before
        parameters.single_segment = True  # one window, decoded once
        parameters.token_timestamps = True
        for name in ("print_progress", "print_realtime", "print_timestamps", "print_special"):
            setattr(parameters, name, False)
        return parameters

    def _failed(self, what: str) -> InferenceError:
        return InferenceError(
            f"whisper.cpp failed at {what}.",
            fix="its reason is in the server's log; where memory was too small, use smaller weights.",
            model=ENGINE,
        )


def _open(path: Path, device: str) -> Any:
    kind, _, number = device.partition(":")
    parameters = library.whisper_context_default_params()
    parameters.use_gpu = kind == "cuda"
    parameters.gpu_device = int(number or 0)
    # It prints nothing: it returns what it was built with.
    if parameters.use_gpu and "CUDA" not in str(library.whisper_print_system_info()):
        raise ModelLoadError(
            "This whisper.cpp was built without CUDA.",
            fix="install pywhispercpp built with GGML_CUDA=1 (see docs/engines.md), or build the release "
            "with build.device = cpu.",
            model=ENGINE,
        )
    try:
        context = library.whisper_init_from_file_with_params(str(path), parameters)
    except (RuntimeError, ValueError, MemoryError) as error:
        raise _refused(path) from error
    if context is None:
        raise _refused(path)
    return context


def _refused(path: Path) -> ModelLoadError:
    return ModelLoadError(
        f"whisper.cpp cannot load {path.name}.",
        fix="its reason is in the log: too little memory, or a file of another version of whisper.cpp.",
        model=ENGINE,
        path=path,
    )
