"""What a caller said of its audio, and what the first bytes say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from orchestrator.errors import AudioDecodeError

MAGIC_BYTES: Final = 12
"""So many bytes tell which container it is."""


class Encoding(StrEnum):
    """How audio may be encoded."""

    UNKNOWN = "unknown"
    """The container's header says it."""
    PCM16 = "LINEAR_PCM"
    """Little-endian 16-bit samples; a WAV header before them is read as one."""
    MULAW = "MULAW"
    ALAW = "ALAW"
    FLAC = "FLAC"
    OPUS = "OGGOPUS"


class Container(StrEnum):
    """What audio may be wrapped in."""

    NONE = "none"
    WAV = "WAV"
    FLAC = "FLAC"
    OGG = "Ogg"


@dataclass(frozen=True, slots=True)
class AudioSpec:
    """What the caller said.

    Attributes:
        encoding: see `Encoding`.
        sample_rate_hz: None: the header says it.
        channels: None: the header says it; one where there is no header.
    """

    encoding: Encoding = Encoding.UNKNOWN
    sample_rate_hz: int | None = None
    channels: int | None = None


_EXPECTED: Final = {
    Encoding.UNKNOWN: (Container.WAV, Container.FLAC, Container.OGG),
    Encoding.PCM16: (Container.WAV, Container.NONE),
    Encoding.MULAW: (Container.WAV, Container.NONE),
    Encoding.ALAW: (Container.WAV, Container.NONE),
    Encoding.FLAC: (Container.FLAC,),
    Encoding.OPUS: (Container.OGG,),
}


def sniff(head: bytes) -> Container:
    """The container whose first bytes these are; fewer than `MAGIC_BYTES` may be too few to tell."""
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        return Container.WAV
    if head.startswith(b"fLaC"):
        return Container.FLAC
    return Container.OGG if head.startswith(b"OggS") else Container.NONE


def container_of(head: bytes, encoding: Encoding) -> Container:
    """The container, where it is one that ``encoding`` may come in.

    Raises:
        AudioDecodeError: it is not.
    """
    found = sniff(head)
    if found in _EXPECTED[encoding]:
        return found
    if encoding is Encoding.UNKNOWN:
        raise AudioDecodeError(
            "The audio has no header that is known here, and its encoding was not given.",
            fix="send WAV, FLAC or Ogg Opus from its first byte on, or say the encoding and the sample rate.",
        )
    raise AudioDecodeError(
        f"The audio is said to be {encoding.value} and is not: "
        + ("it has no header that is known here." if found is Container.NONE else f"it is {found.value}."),
        fix="correct the encoding, or leave it out so that the header says it.",
    )
