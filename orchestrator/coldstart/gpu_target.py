"""Names of GPU targets: ``sm_121``, ``sm_90a``, ``sm_120f``, and the versions that go with them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from orchestrator.errors import ConfigurationError

Version = tuple[int, int]
"""Major and minor, of CUDA, of PTX or of machine code."""

UNKNOWN_MINOR: Final = 99
"""Of a release of which only the major is known: it is taken to be the newest of its major."""

_NAME: Final = re.compile(r"(?:sm_|compute_|lto_)?(\d{1,2})\.?(\d)([af]?)", re.ASCII)
_VERSION: Final = re.compile(r"(\d{1,4})(?:\.(\d{1,4}))?(?:\.\d+)*", re.ASCII)


class Variant(StrEnum):
    """What the letter after a target says."""

    PORTABLE = ""
    """Runs on later GPUs too, as the rules for its kind say."""
    EXACT = "a"
    """Uses features of this one GPU architecture and runs on no other."""
    FAMILY = "f"
    """Uses features of a family of GPU architectures."""


@dataclass(frozen=True, slots=True, order=True)
class GpuTarget:
    """A compute capability, with or without a letter.

    Attributes:
        major, minor: of the compute capability: 12 and 1 of sm_121.
        variant: the letter.
    """

    major: int
    minor: int
    variant: Variant = Variant.PORTABLE

    @classmethod
    def parse(cls, text: str) -> GpuTarget:
        """From ``sm_121``, ``12.1``, ``121``, ``compute_90a``.

        Raises:
            ConfigurationError: that is no target.
        """
        found = _NAME.fullmatch(text.strip().lower())
        if found is None:
            raise ConfigurationError(
                f"{text!r} is no GPU target", fix="name it like sm_121 (DGX Spark) or sm_90 (H100, H200)"
            )
        return cls(int(found[1]), int(found[2]), Variant(found[3]))

    @classmethod
    def of_number(cls, number: int, variant: Variant = Variant.PORTABLE) -> GpuTarget:
        """From a binary's number: 121 is 12.1."""
        return cls(number // 10, number % 10, variant)

    @property
    def number(self) -> str:
        """``121a``: what follows ``sm_`` or ``compute_``."""
        return f"{self.major}{self.minor}{self.variant}"

    @property
    def capability(self) -> Version:
        """Major and minor."""
        return self.major, self.minor

    def __str__(self) -> str:
        return f"sm_{self.number}"


def parse_version(text: str, what: str) -> Version:
    """``"12.8"``, ``"580"`` or ``"580.95.05"`` as major and minor.

    Raises:
        ConfigurationError: that is no version.
    """
    found = _VERSION.fullmatch(text.strip())
    if found is None:
        raise ConfigurationError(f"{text!r} is no version of {what}", fix="give it like 12.8 or 580.95")
    return int(found[1]), int(found[2] or 0)


def shown_version(version: Version) -> str:
    """``12.8``."""
    return f"{version[0]}.{version[1]}"
