"""What a checkpoint knows, before a release is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.engines.whisper.languages import ENGLISH_ONLY, tags_of
from orchestrator.engines.whisper_native.checkpoint import shape_in
from orchestrator.engines.whisper_native.tokens import tokens_in


def inspect(files: Mapping[str, Path]) -> tuple[str, ...]:
    """The languages (BCP-47 primary tags) that the checkpoint in ``files`` (by name) knows.

    Raises:
        ModelLoadError: a file is missing or damaged, or these are other weights.
    """
    shape = shape_in(files, "whisper")
    return tags_of(tuple(tokens_in(files, shape.vocabulary, "whisper").languages) or ENGLISH_ONLY)
