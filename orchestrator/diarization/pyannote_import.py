"""Import pyannote.audio the way this project wants it: no telemetry, no NeMo, no noise.

pyannote.audio tries ``from nemo.collections.asr.models import ...`` to offer NeMo's speaker models. Where
NeMo is installed that costs many seconds for something unused here, so NeMo cannot be found while the import
runs, in the importing thread only. A later ``import nemo`` works as ever.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType

from orchestrator.errors import MissingDependencyError

TELEMETRY_VARIABLE = "PYANNOTE_METRICS_ENABLED"


def import_pyannote() -> ModuleType:
    """``pyannote.audio`` with its pipelines, imported once; telemetry is off from then on.

    Raises:
        MissingDependencyError: pyannote.audio, or something it needs, is not installed.
    """
    os.environ[TELEMETRY_VARIABLE] = "0"
    try:
        with _hidden("nemo"), warnings.catch_warnings():
            # Without FFmpeg, pyannote explains at length how to install torchcodec: not needed for waveforms.
            warnings.simplefilter("ignore")
            importlib.import_module("pyannote.audio.pipelines")
            return importlib.import_module("pyannote.audio")
    except ImportError as error:
        raise MissingDependencyError(
            f"pyannote.audio cannot be imported: {error}",
            fix="install the extra: pip install 'spark-speech[serve]'",
        ) from error


class _Hiding:
    """A finder that denies one top-level package, to one thread."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._thread = threading.get_ident()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Fail for the package and everything below it; leave all else to the other finders."""
        if name.partition(".")[0] == self._package and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{name} is hidden while pyannote.audio is imported", name=name)
        return None


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    finder = _Hiding(package)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
