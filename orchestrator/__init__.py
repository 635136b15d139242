"""spark-speech: a private speech service that answers who said what, when.

::

    from orchestrator import SpeechClient

    with SpeechClient() as client:
        print(client.transcribe("meeting.wav").text)

The names below are imported when first used, so that ``import orchestrator`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.client import AsyncSpeechClient, SpeechClient
    from orchestrator.errors import SpeechError
    from orchestrator.transcript.models import Segment, Transcript, Turn, Word

    __version__: str

__all__ = [
    "AsyncSpeechClient",
    "Segment",
    "SpeechClient",
    "SpeechError",
    "Transcript",
    "Turn",
    "Word",
    "__version__",
]

_MODULES = {
    "AsyncSpeechClient": "orchestrator.client",
    "Segment": "orchestrator.transcript.models",
    "SpeechClient": "orchestrator.client",
    "SpeechError": "orchestrator.errors",
    "Transcript": "orchestrator.transcript.models",
    "Turn": "orchestrator.transcript.models",
    "Word": "orchestrator.transcript.models",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("spark-speech")
        except PackageNotFoundError:  # run from a source folder that was never installed
            return "0+unknown"
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
