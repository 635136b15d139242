"""The engine of the model ``aligner``: measured word times for engines that have none.

Options:

=============  =====================================================================================
``languages``  BCP-47 primary tags of the weights, for weights that do not say
=============  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.alignment import timing, trellis
from orchestrator.engines.alignment.base import (
    HEAD_NAME,
    AlignedWord,
    Aligner,
    Alignment,
    AlignmentOptions,
    Emissions,
    EmissionSource,
    Spoken,
)
from orchestrator.engines.base import EngineSource
from orchestrator.engines.checks import language_in, options_in
from orchestrator.engines.spread import spread_over
from orchestrator.errors import ModelLoadError

_NAME: Final = "aligner"
_LEAST_CONFIDENCE: Final = 0.05
"""Where the tokens of a text have less than this on average, it is not what was said, or not in a language
that the model knows: nothing was found."""


class EngineOptions(BaseModel):
    """See the module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    languages: tuple[str, ...] = ()


def load(source: EngineSource) -> CtcAligner:
    """Load the weights in ``source.folder``: Moonshine's encoder with a head, a FastConformer, or wav2vec2.

    Raises:
        ModelLoadError: they are missing, damaged, or of no kind that can align; or the device is not there.
        MissingDependencyError: they need a library that is not installed.
        ConfigurationError: an unknown option, or no torch device.
    """
    options = options_in(source, EngineOptions, _NAME)
    found = _emission_source(source, options)
    return CtcAligner(found, found.languages or options.languages or ("en",))


class CtcAligner(Aligner):
    """Forced alignment with a CTC model."""

    def __init__(self, source: EmissionSource, languages: Sequence[str]) -> None:
        self._source = source
        self.languages = tuple(languages)

    def align(self, batch: Sequence[Spoken], options: AlignmentOptions | None = None) -> list[Alignment]:
        """See `Aligner.align`."""
        if options is not None and options.language is not None:
            language_in(self.languages, options.language, _NAME)
        wanted = [samples for samples, words in batch if words and samples.size]
        heard = iter(self._source.emissions(wanted) if wanted else ())
        return [
            self._found(spoken, next(heard)) if spoken[1] and spoken[0].size else _spread(spoken)
            for spoken in batch
        ]

    def _found(self, spoken: Spoken, emissions: Emissions) -> Alignment:
        samples, words = spoken
        text = timing.line(words, self._source.speller)
        found = trellis.spans(emissions.log_probs, text.tokens, self._source.blank)
        if found is None:
            return _spread(spoken)
        length_ms = samples.size * 1000 // SAMPLE_RATE_HZ
        times = timing.word_times(words, text, found, emissions, self._source.reach, length_ms)
        sure = [word.confidence for word in times if word.measured]
        return times if sure and sum(sure) / len(sure) >= _LEAST_CONFIDENCE else _spread(spoken)


def _spread(spoken: Spoken) -> Alignment:
    samples, words = spoken
    return tuple(AlignedWord(word.start_ms, word.end_ms, 0.0, False) for word in spread_over(words, samples))


def _emission_source(source: EngineSource, options: EngineOptions) -> EmissionSource:
    folder = source.folder
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if HEAD_NAME in names:
        from orchestrator.engines.alignment.moonshine_ctc import MoonshineCtc

        return MoonshineCtc(folder, source.threads)
    if {"config.json", "vocab.json"} <= names:
        from orchestrator.engines.alignment.wav2vec2_ctc import Wav2Vec2Ctc
        from orchestrator.engines.torch_device import device_of

        return Wav2Vec2Ctc(folder, device_of(source.device, _NAME), options.languages)
    if names & {"model.json", "model.safetensors", "model.nemo"}:
        from orchestrator.engines.alignment.fastconformer_ctc import FastConformerCtc
        from orchestrator.engines.torch_device import device_of

        return FastConformerCtc(folder, device_of(source.device, _NAME))
    raise ModelLoadError(
        f"The folder {folder} holds no weights that can align.",
        fix="name a CTC or hybrid Parakeet checkpoint, or a wav2vec2 folder with config.json and vocab.json.",
        model=_NAME,
        path=folder,
    )
