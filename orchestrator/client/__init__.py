"""The client library: recordings in, transcripts out, from one Triton server.

It imports neither torch nor an engine's libraries.
"""

from __future__ import annotations

from orchestrator.client.aio import AsyncSpeechClient
from orchestrator.client.batch import BatchArgs, FileResult
from orchestrator.client.catalog import ModelCard
from orchestrator.client.options import TranscribeArgs, TranscribeOptions
from orchestrator.client.sync import SpeechClient
from orchestrator.client.triton import ServerStatus

__all__ = [
    "AsyncSpeechClient",
    "BatchArgs",
    "FileResult",
    "ModelCard",
    "ServerStatus",
    "SpeechClient",
    "TranscribeArgs",
    "TranscribeOptions",
]
