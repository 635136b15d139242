"""A recording of which it is known what is said in it.

Without one of the operator's own it is the dialogue in this package: 23 s, two synthetic voices, words that
each of the project's English recognisers hears, the small test model among them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orchestrator
from orchestrator.errors import ArtifactNotFoundError, ConfigurationError
from orchestrator.transcript.wording import spoken_words

_DIALOGUE: Final = Path(orchestrator.__file__).parent / "training" / "checkpoint" / "dialogue.flac"


@dataclass(frozen=True, slots=True)
class KnownRecording:
    """Audio, what is said in it, and in which language (a BCP-47 primary tag)."""

    path: Path
    text: str
    language: str = "en"


def packaged() -> KnownRecording:
    """The dialogue in this package.

    Raises:
        ArtifactNotFoundError: the installation lacks it.
    """
    try:
        text = json.loads(_DIALOGUE.with_suffix(".json").read_text(encoding="utf-8"))["text"]
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactNotFoundError(
            "the known recording is missing", path=_DIALOGUE, fix="install spark-speech again"
        ) from error
    return KnownRecording(_DIALOGUE, text)


def from_files(path: Path, reference: Path | None = None, language: str = "en") -> KnownRecording:
    """A recording of the operator's; what it says stands in ``reference``, a text file.

    Args:
        path: the audio.
        reference: the text; beside the audio, with the suffix ``.txt``, where it is not named.
        language: what is spoken.

    Raises:
        ConfigurationError: a file is missing or not readable, or the text holds no word.
    """
    reference = reference or path.with_suffix(".txt")
    try:
        with path.open("rb"):
            text = reference.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        missing = reference if isinstance(error, UnicodeDecodeError) else Path(error.filename)
        raise ConfigurationError(
            f"the known recording needs {missing}, which cannot be read",
            path=missing,
            fix="name the audio, and a UTF-8 text file with what is said in it.",
        ) from error
    if not spoken_words(text):
        raise ConfigurationError(
            f"{reference} says nothing", path=reference, fix="write down what is said in the recording."
        )
    return KnownRecording(path, text, language)
