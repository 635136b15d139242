"""The way from recordings to words that all Whisper engines go.

Windows of speech, the language, texts that are tried again until they are sound, and words in the recording's
time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import (
    EngineInfo,
    Recognition,
    RecognitionOptions,
    RecognizedWord,
    Recognizer,
    Samples,
)
from orchestrator.engines.registry import spec
from orchestrator.engines.whisper.languages import code_in, tags_of
from orchestrator.engines.whisper.quality import Decoding, Effort, Verdict, judge, kept, ladder
from orchestrator.engines.whisper.speech import SpeechFinder
from orchestrator.engines.whisper.windows import Window
from orchestrator.engines.whisper.words import moved, settled

_LISTENED: Final = 2
"""Windows of a recording that its language is found out from, up to a minute of speech."""


@dataclass(frozen=True, slots=True)
class _Tongue:
    """A recording's language: Whisper's code, and how sure that is; None where it was given."""

    code: str
    confidence: float | None


@dataclass(slots=True)
class _Try:
    """One window of one recording, and what was written for it so far."""

    recording: int
    window: Window
    attempts: list[Decoding] = field(default_factory=list)


class WhisperRecognizer(Recognizer):
    """A Whisper model; an engine says how windows are decoded."""

    detects_language: ClassVar[bool] = True

    def __init__(
        self,
        engine: str,
        codes: Sequence[str],
        *,
        batch_size: int = 8,
        temperatures: Sequence[float] = (),
        finder: SpeechFinder | None = None,
    ) -> None:
        """Set up what is common.

        Args:
            engine: the name in the registry.
            codes: Whisper's codes of the languages that the weights know, see `languages.codes_of`.
            batch_size: windows decoded at once.
            temperatures: what texts are drawn at that no other effort made sound. Drawn texts may differ from
                call to call, so there are none by default.
            finder: what finds speech; by default a new one.
        """
        known = spec(engine)
        self.info = EngineInfo(
            name=engine,
            languages=tags_of(codes),
            times_estimated=known.times_estimated,
            max_window_s=known.max_window_s,
        )
        self._codes = tuple(codes)
        self._batch_size = batch_size
        self._ladder = ladder(temperatures)
        self._finder = finder or SpeechFinder()

    @abstractmethod
    def _detect(self, windows: Sequence[Samples]) -> Sequence[Mapping[str, float]]:
        """For each window (at most ``batch_size``) the probability of each code; they sum up to 1.

        Raises:
            InferenceError: the model failed.
        """

    @abstractmethod
    def _decode(self, windows: Sequence[Samples], code: str, effort: Effort) -> Sequence[Decoding]:
        """What is said in each window (at most ``batch_size``), all in the language ``code``.

        A window's result does not depend on the others. Word times need not be sound, see `words.settled`.

        Raises:
            InferenceError: the model failed.
        """

    def recognize(
        self, batch: Sequence[Samples], options: RecognitionOptions | None = None
    ) -> list[Recognition]:
        """Recognise each recording, of any length; see `Recognizer.recognize`."""
        wanted = options or RecognitionOptions()
        given = None
        if wanted.language is not None:
            given = code_in(self._codes, wanted.language, self.info.name)
        found = self._finder.windows(batch)
        tongues = self._tongues(found, given)
        words: list[tuple[RecognizedWord, ...]] = [() for _ in batch]
        if not wanted.detect_only:
            words = self._words(batch, found, tongues)
        return [
            Recognition(said, tags_of([tongue.code])[0], self.info.times_estimated, tongue.confidence)
            for said, tongue in zip(words, tongues, strict=True)
        ]

    def _tongues(self, found: Sequence[Sequence[Window]], given: str | None) -> list[_Tongue]:
        """The language of each recording; that of one without speech is anything, with no confidence."""
        if given is not None or len(self._codes) == 1:
            return [_Tongue(given or self._codes[0], None) for _ in found]
        heard = [window for windows in found for window in windows[:_LISTENED]]
        tables = iter(
            table
            for first in range(0, len(heard), self._batch_size)
            for table in self._detect([w.samples for w in heard[first : first + self._batch_size]])
        )
        return [
            self._tongue([(w.samples.size, next(tables)) for w in windows[:_LISTENED]]) for windows in found
        ]

    def _tongue(self, tables: Sequence[tuple[int, Mapping[str, float]]]) -> _Tongue:
        """The likeliest language of windows with their lengths, by which they count."""
        total = sum(size for size, _ in tables)
        if not total:
            return _Tongue(self._codes[0], 0.0)
        mean = {
            code: sum(size * table.get(code, 0.0) for size, table in tables) / total for code in self._codes
        }
        code = max(self._codes, key=mean.__getitem__)
        return _Tongue(code, min(max(mean[code], 0.0), 1.0))

    def _words(
        self, batch: Sequence[Samples], found: Sequence[Sequence[Window]], tongues: Sequence[_Tongue]
    ) -> list[tuple[RecognizedWord, ...]]:
        tries = [_Try(number, window) for number, windows in enumerate(found) for window in windows]
        groups: dict[str, list[_Try]] = {}
        for one in tries:
            groups.setdefault(tongues[one.recording].code, []).append(one)
        for code, group in groups.items():
            self._try(group, code)
        said: list[list[RecognizedWord]] = [[] for _ in batch]
        for one in tries:
            window = one.window
            words = settled(kept(one.attempts), 0, window.duration_ms)
            said[one.recording] += moved(words, window.start_ms)
        return [
            settled(words, 0, samples.size * 1000 // SAMPLE_RATE_HZ)
            for words, samples in zip(said, batch, strict=True)
        ]

    def _try(self, group: Sequence[_Try], code: str) -> None:
        """Decode windows of one language, those again whose text is not sound."""
        left = list(group)
        for effort in self._ladder:
            for first in range(0, len(left), self._batch_size):
                some = left[first : first + self._batch_size]
                done = self._decode([one.window.samples for one in some], code, effort)
                for one, decoding in zip(some, done, strict=True):
                    one.attempts.append(decoding)
            left = [one for one in left if judge(one.attempts[-1]) is Verdict.RETRY]
