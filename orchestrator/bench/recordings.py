"""The recordings that accuracy is measured on, with their references.

A folder of recordings holds a ``manifest.json``: a list of objects with ``path`` and, where known, ``text``
(what is said), ``rttm`` (a file of speaker turns), ``word_times`` (a TextGrid), ``channels`` and
``speakers``. Other keys are left alone.
Without a folder the one recording that everybody has is used: the 30 s telephone call of two speakers that
pyannote.audio's wheel carries, with its turns and its speaker-attributed text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from orchestrator.errors import ConfigurationError, MissingDependencyError


@dataclass(frozen=True, slots=True)
class SpokenLine:
    """One line of a speaker-attributed reference: seconds, speaker, words."""

    speaker: str
    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording and what is known to be true of it; ``separate``: each channel is one speaker's."""

    audio: Path
    name: str
    text: str | None = None
    rttm: Path | None = None
    lines: tuple[SpokenLine, ...] = ()
    separate: bool = False
    word_times: Path | None = None
    """A TextGrid with the words' times."""


def packaged() -> Recording:
    """The recording in pyannote.audio's wheel, found without importing pyannote.

    Raises:
        MissingDependencyError: pyannote.audio is not installed.
    """
    try:
        folder = Path(str(distribution("pyannote.audio").locate_file("pyannote/audio/sample")))
    except PackageNotFoundError as error:
        raise MissingDependencyError(
            "the sample recording comes with pyannote.audio, which is not installed",
            fix="pip install 'spark-speech[demo]'",
        ) from error
    lines = read_stm(folder / "sample.stm")
    return Recording(
        audio=folder / "sample.wav",
        name="pyannote-audio/sample.wav",
        text=" ".join(line.text for line in lines),
        rttm=folder / "sample.rttm",
        lines=lines,
    )


def read_stm(path: Path) -> tuple[SpokenLine, ...]:
    """The lines of an STM file: ``name channel speaker start end text``."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith(";;"):
            _, _, speaker, start, end, text = line.split(maxsplit=5)
            lines.append(SpokenLine(speaker, float(start), float(end), text))
    return tuple(lines)


def from_folder(folder: Path) -> list[Recording]:
    """The recordings a folder's ``manifest.json`` lists, in its order.

    Raises:
        ConfigurationError: no manifest there, or it is not the list described above.
    """
    manifest = folder / "manifest.json"
    try:
        entries = json.loads(manifest.read_text(encoding="utf-8"))
        return [_recording(folder, entry) for entry in entries]
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{folder} has no manifest.json",
            fix='write one: a JSON list of {"path": "a.wav", "text": "what is said"} objects',
            path=manifest,
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"{manifest} is not a list of recordings: {error}",
            fix='each entry needs "path"; "text" and "rttm" are optional',
            path=manifest,
        ) from error


def _recording(folder: Path, entry: dict[str, object]) -> Recording:
    audio = folder / str(entry["path"])
    stm = audio.with_suffix(".stm")
    rttm = entry.get("rttm")
    text = entry.get("text")
    word_times = entry.get("word_times")
    channels, speakers = (int(str(entry.get(key, 1))) for key in ("channels", "speakers"))
    return Recording(
        audio=audio,
        name=str(entry["path"]),
        text=None if text is None else str(text),
        rttm=None if rttm is None else folder / str(rttm),
        lines=read_stm(stm) if stm.exists() else (),
        separate=speakers >= channels > 1,
        word_times=None if word_times is None else folder / str(word_times),
    )
