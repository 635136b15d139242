"""Constant use of stand-ins through a proxy: recordings and live streams that say known words."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

from orchestrator.client import Completed, Reconnected, SpeechClient
from orchestrator.errors import SpeechError
from orchestrator.settings import Settings
from tests.client.conftest import spoken
from tests.integration.deploy.haproxy import TEXT, StandIn, paced, speech

STRICT = Settings(client={"retries": 0, "stream_reconnects": 0})  # type: ignore[arg-type]
"""Nothing is tried twice: what a proxy loses is a failure."""


class Load:
    """Recordings and live streams without pause until it is left."""

    def __init__(self, url: str, *, settings: Settings = STRICT, streams: int = 6, words: int = 12) -> None:
        self.url, self.settings, self.words = url, settings, words
        self.done, self.streamed, self.resumed = 0, 0, 0
        self.failures: list[str] = []
        self._ended = threading.Event()
        self._threads = ThreadPoolExecutor(streams + 2)
        self._jobs = [self._threads.submit(self._recordings) for _ in range(2)]
        self._jobs += [self._threads.submit(self._streams) for _ in range(streams)]

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self._ended.set()
        for job in self._jobs:
            job.result(60)
        self._threads.shutdown()

    def _recordings(self) -> None:
        with SpeechClient(self.url, settings=self.settings) as client:
            while not self._ended.is_set():
                try:
                    said = client.transcribe(spoken(TEXT), diarize=False).text
                    if said != TEXT:
                        self.failures.append(f"recording: {said}")
                    self.done += 1
                    time.sleep(0.02)
                except SpeechError as error:
                    self.failures.append(f"recording: {error}")

    def _streams(self) -> None:
        pieces, words = speech(self.words)
        with SpeechClient(self.url, settings=self.settings) as client:
            while not self._ended.is_set():
                try:
                    for event in client.stream(paced(pieces, 4.0), diarize=False):
                        self.resumed += isinstance(event, Reconnected)
                        if isinstance(event, Completed) and event.transcript.text.split() != words:
                            self.failures.append(f"stream: {event.transcript.text}")
                    self.streamed += 1
                except SpeechError as error:
                    self.failures.append(f"stream: {error}")


def homes(slots: list[StandIn]) -> dict[int, set[str]]:
    """The servers that saw each live stream."""
    found: dict[int, set[str]] = defaultdict(set)
    for slot in slots:
        for chunk in slot.chunks:
            found[chunk.sequence].add(slot.name)
    return found
