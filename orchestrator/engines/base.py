"""What an engine is: audio in, words out, no Triton, no network.

An engine is batch-first and thread-safe: `Recognizer.recognize` may be called from several threads at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Samples = NDArray[np.float32]
"""Mono float32 samples at 16 kHz, shape ``[n]``, full scale +-1."""
Pcm16 = NDArray[np.int16]
"""Mono 16-bit samples at 16 kHz, shape ``[n]``, full scale 32,768."""
PCM16_SCALE: Final = 32_768
"""`Pcm16` over this is `Samples`, exactly."""


class RecognitionOptions(BaseModel):
    """What a caller may ask of a recogniser; travels as JSON in the OPTIONS tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: str | None = None
    """BCP-47 tag (``en``, ``en-US``); None lets the engine decide."""
    detect_only: bool = False
    """Only the language is wanted; asked only of engines that can tell it (`Recognizer.detects_language`),
    which may leave the words out."""


@dataclass(frozen=True, slots=True)
class RecognizedWord:
    """One word: its text without surrounding white space, whole milliseconds, confidence in 0..1."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float
    estimated: bool | None = None
    """Whether its times were spread, not measured; None: as `Recognition.times_estimated` says."""


@dataclass(frozen=True, slots=True)
class Recognition:
    """What one recording said.

    Attributes:
        words: in order; ``start_ms <= end_ms`` and starts never go back.
        language: BCP-47 primary tag.
        times_estimated: True where word times were spread inside a longer span, not measured.
        language_confidence: how sure the language is, 0..1; None where it was given, or is not measured.
    """

    words: tuple[RecognizedWord, ...]
    language: str
    times_estimated: bool
    language_confidence: float | None = None

    @property
    def text(self) -> str:
        """The words, joined by single spaces."""
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class LanguageGuess:
    """What language is spoken: a BCP-47 tag, and how sure that is, 0..1."""

    language: str
    confidence: float


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine can do."""

    name: str
    languages: tuple[str, ...]
    times_estimated: bool
    max_window_s: float
    """The longest audio in seconds that one call takes well."""


class Recognizer(ABC):
    """A loaded recogniser. Build one with `orchestrator.engines.load`."""

    takes_pcm16: ClassVar[bool] = False
    """Whether `recognize` takes `Pcm16` as well as `Samples`, mixed in one batch too; for an engine that does
    not, callers convert."""
    detects_language: ClassVar[bool] = False
    """Whether it finds out what is spoken where `RecognitionOptions.language` is None: its recognitions then
    carry a ``language_confidence``."""

    info: EngineInfo

    @abstractmethod
    def recognize(
        self, batch: Sequence[Samples], options: RecognitionOptions | None = None
    ) -> list[Recognition]:
        """Recognise each recording of ``batch``; results in the same order.

        The same audio alone or in any batch gives the same words. An empty batch gives an empty list;
        audio too short for a word gives no words.

        Raises:
            UnsupportedLanguageError: ``options.language`` is not one of the engine's.
            InferenceError: the model failed.
        """

    def close(self) -> None:  # noqa: B027 (most engines have nothing to free)
        """Free what the engine holds; it cannot be used afterwards."""


@dataclass(frozen=True, slots=True)
class EngineSource:
    """Where and how to load an engine: its folder of files and its options (device, threads...)."""

    folder: Path
    device: str = "cpu"
    """A torch device name (``cpu``, ``cuda``, ``cuda:0``) for engines that use torch."""
    threads: int | None = None
    """CPU threads, None for the library's own default."""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What only this engine knows, JSON-ready; the engine's module documents and checks it."""
