"""Moonshine tiny, English, through the ``moonshine-voice`` package, whose wheel carries the weights.

Small (44 MB) and quick on a CPU, so it is the engine that works with no download and no GPU.

The library's own voice detector is off. It keeps its state from call to call, over all transcribers of a
process, so that a recording's words would depend on the one before; and it fails the whole recording
where it finds a piece of some 60 ms. `speech_gate` finds the pieces instead, and each piece is one
call, which keeps no state.

The silence level of `speech_gate`, the audio heard around a piece and the bound on tokens were set on 28
English clips (read sentences, readings, a telephone call, spontaneous speech; longer recordings also in
excerpts), each as it is and changed in up to 14 ways: louder, quieter, with silence around it, in noise, as
telephone sound, in an echoing room, joined to another. Candidates were found on one half of the clips and
compared on both. WER over all words, before and after, first half and second: 0.204 to 0.149, 0.178 to 0.147;
20 dB quieter: 0.492 to 0.126, 0.317 to 0.108; the clips as they are: 0.151 to 0.125, 0.104 to 0.100; the
14 whole recordings: 0.102 to 0.079. Nearly all of the gain is in quiet speech. At usual levels a word or two
of a clip change with any change of level or edge, so one clip says little: on average no scaling to a
fixed peak or RMS, and no filling with silence, did better.

The wheel has no word times: the words of a piece are spread over its sound in proportion to their letters,
pauses left out (`spread`), and marked as estimated. It has no confidence either: every word carries
`spread.CONFIDENCE`, which says that nothing was measured.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from moonshine_voice.errors import MoonshineError
from moonshine_voice.moonshine_api import ModelArch
from moonshine_voice.transcriber import Transcriber
from moonshine_voice.utils import get_model_path

from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import (
    EngineInfo,
    EngineSource,
    Recognition,
    RecognitionOptions,
    RecognizedWord,
    Recognizer,
    Samples,
)
from orchestrator.engines.checks import primary_tag
from orchestrator.engines.registry import EngineSpec, spec
from orchestrator.engines.speech_gate import FRAME, pieces, surroundings
from orchestrator.engines.spread import spread
from orchestrator.errors import InferenceError, ModelLoadError, UnsupportedLanguageError

_MAX_PIECE_S: Final = 15.0
_JOIN_S: Final = 0.6
"""The model hears better with context, and the words' times are worse in a piece with long pauses. Over 158 s
of mixed speech: joined over 0.3 s, WER 0.26; over 0.6 s, 0.14 and word edges off by 0.15 s (median);
over 1 s, 0.13 and off by 0.8 s."""
_MIN_PIECE: Final = SAMPLE_RATE_HZ // 2
"""Samples a piece is filled up to with silence: the encoder's convolutions fail below about 70 ms."""

_OPTIONS: Final = {
    "vad_threshold": 0.0,  # everything is speech: see the module's docstring
    "vad_max_segment_duration": 4 * _MAX_PIECE_S,
    "return_audio_data": "false",  # else every line comes back as a list of floats
    "max_tokens_per_second": 10.0,
}
"""``max_tokens_per_second`` bounds a decoder caught in a loop. The library's 6.5 cuts quick speech off
inside words; 10 changes no other word than 13 does, and a loop is shorter."""
_NO_SPEECH: Final = frozenset({"You"})
"""What the model writes for a piece of breath, chair or room noise; a "you" that was said alone ends with a
mark."""


def load(source: EngineSource) -> MoonshineRecognizer:
    """Load the model from ``source.folder``, or the one inside the package where the folder has no weights.

    ``source.device`` and ``source.threads`` have no effect: the library runs on the CPU with its own threads.

    Raises:
        ModelLoadError: files are missing or not Moonshine tiny's.
    """
    return MoonshineRecognizer(source.folder)


class MoonshineRecognizer(Recognizer):
    """Moonshine tiny English. Calls from several threads take turns."""

    def __init__(self, folder: Path) -> None:
        known = spec("moonshine")
        self.info = EngineInfo(
            name=known.name,
            languages=known.languages,
            times_estimated=known.times_estimated,
            max_window_s=known.max_window_s,
        )
        self._lock = threading.Lock()
        self._transcriber = _open(_weights(folder, known))

    def recognize(
        self, batch: Sequence[Samples], options: RecognitionOptions | None = None
    ) -> list[Recognition]:
        """Recognise each recording; see `Recognizer.recognize`."""
        language = None if options is None else options.language
        if language is not None and primary_tag(language) != "en":
            raise UnsupportedLanguageError(
                f"The engine moonshine knows English (en) only, not {language!r}.",
                fix="leave the language out, or use an engine that knows it.",
                model=self.info.name,
            )
        return [
            Recognition(words=tuple(self._words(samples)), language="en", times_estimated=True)
            for samples in batch
        ]

    def close(self) -> None:
        """Free the model."""
        with self._lock:
            self._transcriber.close()

    def _words(self, samples: Samples) -> Iterator[RecognizedWord]:
        found = pieces(samples, max_s=_MAX_PIECE_S, join_s=_JOIN_S)
        for piece, (start, end) in zip(found, surroundings(found, samples.size // FRAME), strict=True):
            text = self._text(samples[start * FRAME : end * FRAME]).strip()
            if text not in _NO_SPEECH:
                yield from spread(text.split(), piece)

    def _text(self, samples: Samples) -> str:
        filled = np.pad(samples, (0, max(0, _MIN_PIECE - samples.size)))
        try:
            with self._lock:
                # A memoryview hands over Python floats without a list of them in between.
                answer = self._transcriber.transcribe_without_streaming(filled.data, SAMPLE_RATE_HZ)
        except MoonshineError as error:
            raise InferenceError(
                f"Moonshine failed on {samples.size / SAMPLE_RATE_HZ:.2f} s of audio: {error}",
                fix="if it happens again with the same recording, use another engine for it.",
                model=self.info.name,
            ) from error
        return " ".join(line.text for line in answer.lines)


def _weights(folder: Path, known: EngineSpec) -> Path:
    """The folder with the weights: ``folder``, or the package's where ``folder`` has none of the files."""
    there = [name for name in known.artifacts if (folder / name).is_file()]
    if len(there) == len(known.artifacts):
        return folder
    if there:
        missing = ", ".join(name for name in known.artifacts if name not in there)
        raise ModelLoadError(
            f"The folder {folder} lacks {missing} of Moonshine's files.",
            fix="build the release again, or point the engine at a complete folder.",
            model=known.name,
            path=folder,
        )
    return Path(get_model_path("tiny-en"))


def _open(folder: Path) -> Transcriber:
    try:
        return Transcriber(folder, ModelArch.TINY, options=_OPTIONS)
    except (MoonshineError, OSError) as error:
        raise ModelLoadError(
            f"Moonshine cannot load its weights from {folder}: {error}",
            fix="build the release again; if it fails again, reinstall moonshine-voice 0.1.0.",
            model="moonshine",
            path=folder,
        ) from error
