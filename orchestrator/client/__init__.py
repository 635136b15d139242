"""The client library: recordings or live audio in, transcripts or events out, from one Triton server.

It imports neither torch nor an engine's libraries.
"""

from __future__ import annotations

from orchestrator.client.aio import AsyncSpeechClient
from orchestrator.client.batch import BatchArgs, FileResult
from orchestrator.client.catalog import ModelCard
from orchestrator.client.options import TranscribeArgs, TranscribeOptions
from orchestrator.client.stream.blocking import BlockingLiveStream
from orchestrator.client.stream.events import (
    Completed,
    Final,
    Partial,
    Reconnected,
    SpeakerChange,
    StreamEvent,
    event_dict,
)
from orchestrator.client.stream.live import LiveStream
from orchestrator.client.stream.microphone import Microphone
from orchestrator.client.stream.options import StreamArgs, StreamRequest
from orchestrator.client.sync import SpeechClient
from orchestrator.client.triton import ServerStatus

__all__ = [
    "AsyncSpeechClient",
    "BatchArgs",
    "BlockingLiveStream",
    "Completed",
    "FileResult",
    "Final",
    "LiveStream",
    "Microphone",
    "ModelCard",
    "Partial",
    "Reconnected",
    "ServerStatus",
    "SpeakerChange",
    "SpeechClient",
    "StreamArgs",
    "StreamEvent",
    "StreamRequest",
    "TranscribeArgs",
    "TranscribeOptions",
    "event_dict",
]
