"""Speech whose word times are known: festival says when each word begins and ends as it makes it."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr

from orchestrator.bench.word_times import TimedWord
from orchestrator.contract import SAMPLE_RATE_HZ
from orchestrator.engines.base import Samples
from orchestrator.errors import ArtifactError, MissingDependencyError

VOICES: Final = ("kal_diphone", "ked_diphone")
_TIMEOUT_S: Final = 60.0
_PEAK: Final = 0.5
_SCRIPT: Final = """
(voice_{voice})
(set! utt (utt.synth (Utterance Text "{text}")))
(utt.save.wave utt "{wave}")
(mapcar
 (lambda (word) (format t "%s %f %f\\n" (item.name word) (item.feat word "word_start")
                        (item.feat word "word_end")))
 (utt.relation.items utt 'Word))
"""


def say(text: str, voice: str) -> tuple[Samples, tuple[TimedWord, ...]]:
    """``text`` (letters and spaces) at 16 kHz, and when each of its words is said.

    Raises:
        MissingDependencyError: festival is not installed.
        ArtifactError: it has no such voice, or failed.
    """
    with tempfile.TemporaryDirectory(prefix="festival-") as folder:
        wave, script = Path(folder) / "speech.wav", Path(folder) / "say.scm"
        script.write_text(_SCRIPT.format(voice=voice, text=text, wave=wave), encoding="ascii")
        try:
            told = subprocess.run(
                ["festival", "-b", str(script)],
                check=True,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
            ).stdout
            audio, rate = soundfile.read(wave, dtype="float32")
            rows = [line.split() for line in told.splitlines() if line.strip()]
            words = tuple(TimedWord(name, 1000 * float(a), 1000 * float(b)) for name, a, b in rows)
        except FileNotFoundError as error:
            raise MissingDependencyError(
                "the speech synthesiser festival is not installed",
                fix="run: apt-get install festival festvox-kallpc16k",
            ) from error
        except (subprocess.SubprocessError, soundfile.LibsndfileError, ValueError) as error:
            raise ArtifactError(f"festival could not speak as {voice}: {error}") from error
    speech = soxr.resample(audio, rate, SAMPLE_RATE_HZ).astype(np.float32)
    return np.asarray(speech * (_PEAK / max(float(np.abs(speech).max()), 1e-6)), dtype=np.float32), words
