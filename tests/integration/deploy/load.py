"""Constant use of a service while it is being changed: recordings, live streams, HTTP requests.

Each worker repeats one thing and compares what it hears with what was heard before the change. Recordings
and streams go through the client library as an application would use it; HTTP requests through a client that
tries nothing twice.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import numpy as np
import soundfile

from orchestrator import resources
from orchestrator.client import Completed, Reconnected, SpeechClient
from orchestrator.client import Final as FinalWords
from orchestrator.errors import SpeechError

DIALOGUE: Final = Path(resources.__file__).parent / "training" / "checkpoint" / "dialogue.flac"
STREAM_SPEED: Final = 2.0
"""Live streams speak this much faster than people, so that a run of minutes has many beginnings and ends."""
PAUSE_S: Final = 1.0
"""Between two pieces of work: a small machine has to roll out beside it."""
ENDPOINTS: Final[Any] = {"stop_history_ms": 320}


@dataclass
class Tally:
    """What became of one kind of work."""

    done: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    resumed: int = 0

    def row(self) -> dict[str, Any]:
        """The figures of a report."""
        return {
            "done": self.done,
            "failed": len(self.failures),
            "resumed": self.resumed,
            "median_s": round(statistics.median(self.seconds), 3) if self.seconds else None,
            "longest_s": round(max(self.seconds), 3) if self.seconds else None,
        }


class HeldStream:
    """A live stream that says nothing until it is let go, speaks then, and is kept open meanwhile.

    Args:
        host: where it goes.

    Attributes:
        text: what was heard, once the block has ended.
        resumed: how often it had to begin again elsewhere.
    """

    def __init__(self, host: str) -> None:
        self.text = ""
        self.resumed = 0
        self._url = f"{host}:8001"
        self._open, self._free = threading.Event(), threading.Event()
        self._failure: SpeechError | None = None
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._open.wait(120) or self._failure is not None:
            raise AssertionError(f"the stream did not begin: {self._failure}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._free.set()
        self._thread.join(120)
        if error is None and self._failure is not None:
            raise self._failure

    def _listen(self) -> None:
        try:
            with SpeechClient(self._url) as client:
                for event in client.stream(self._spoken(), endpointing=ENDPOINTS, diarize=False):
                    if isinstance(event, Reconnected):
                        self.resumed += 1
                    elif isinstance(event, Completed):
                        self.text = event.transcript.text
        except SpeechError as failure:
            self._failure = failure
            self._open.set()

    def _spoken(self) -> Iterator[np.ndarray]:
        samples, rate = soundfile.read(DIALOGUE, dtype="int16")
        step = rate // 10
        silence = np.zeros(step, dtype="int16")
        count = 0
        while not self._free.wait(0.1):
            yield silence
            count += 1
            if count == 20:  # by then the stream has long been sent to a stack
                self._open.set()
        for begin in range(0, len(samples), step):
            yield samples[begin : begin + step]


class Load:
    """Use some hosts until the block ends.

    Args:
        hosts: addresses; Triton answers at port 8001 and the gateway at 9000 of each.
        recordings: clients that send recordings.
        streams: clients that stream live.
        pages: clients of HTTP.
    """

    def __init__(
        self, hosts: Sequence[str], *, recordings: int = 1, streams: int = 1, pages: int = 1
    ) -> None:
        self.recordings, self.streams, self.pages = Tally(), Tally(), Tally()
        self._hosts = tuple(hosts)
        self._urls = [f"{host}:8001" for host in hosts]
        self._end = threading.Event()
        self._lock = threading.Lock()
        work = [(self._record, self.recordings)] * recordings
        work += [(self._stream, self.streams)] * streams
        work += [(self._page, self.pages)] * pages
        self._threads = [
            threading.Thread(target=self._repeat, args=(index, once, tally), daemon=True)
            for index, (once, tally) in enumerate(work)
        ]
        samples, self._rate = soundfile.read(DIALOGUE, dtype="int16")
        self._samples: np.ndarray = samples
        self._expected = self._undisturbed()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(120)

    def report(self) -> dict[str, dict[str, Any]]:
        """The figures so far."""
        return {
            "recordings": self.recordings.row(),
            "streams": self.streams.row(),
            "http": self.pages.row(),
        }

    @property
    def failures(self) -> list[str]:
        """Everything that an application would have noticed."""
        return [*self.recordings.failures, *self.streams.failures, *self.pages.failures]

    # -- one piece of work, which returns the words that were heard ------------------------------

    def _record(self, index: int, tally: Tally) -> str:
        with SpeechClient(self._urls) as client:
            return client.transcribe(DIALOGUE, diarize=False, engine="parakeet").text

    def _stream(self, index: int, tally: Tally) -> str:
        with SpeechClient(self._urls) as client:
            return self._heard(client, tally)

    def _page(self, index: int, tally: Tally) -> str:
        url = f"http://{self._hosts[index % len(self._hosts)]}:9000/v1/audio/transcriptions"
        answer = httpx.post(
            url,
            files={"file": (DIALOGUE.name, DIALOGUE.read_bytes())},
            data={"model": "parakeet", "response_format": "text"},
            timeout=60,
        )
        answer.raise_for_status()
        return answer.text.strip()

    # -- the parts -------------------------------------------------------------------------------

    def _heard(self, client: SpeechClient, tally: Tally) -> str:
        words, whole = [], None
        for event in client.stream(self._spoken(), endpointing=ENDPOINTS, diarize=False):
            if isinstance(event, FinalWords):
                words.append(event.segment.text)
            elif isinstance(event, Reconnected):
                with self._lock:
                    tally.resumed += 1
            elif isinstance(event, Completed):
                whole = event.transcript.text
        if whole is None or " ".join(words) != whole:
            raise ValueError(f"the stream said {words} and ended with {whole!r}")
        return whole

    def _spoken(self) -> Iterator[np.ndarray]:
        step = self._rate // 10
        began = time.monotonic()
        for begin in range(0, len(self._samples), step):
            due = began + begin / self._rate / STREAM_SPEED
            time.sleep(max(0.0, due - time.monotonic()))
            yield self._samples[begin : begin + step]

    def _undisturbed(self) -> dict[str, str]:
        nobody = Tally()
        return {
            self._record.__name__: self._record(0, nobody),
            self._stream.__name__: self._stream(0, nobody),
            self._page.__name__: self._page(0, nobody),
        }

    def _repeat(self, index: int, once: Callable[[int, Tally], str], tally: Tally) -> None:
        while not self._end.is_set():
            began = time.monotonic()
            failure = None
            try:
                heard = once(index, tally)
                if heard != self._expected[once.__name__]:
                    failure = f"{once.__name__}: heard {heard!r}"
            except (SpeechError, httpx.HTTPError, ValueError) as error:
                failure = f"{once.__name__}: {type(error).__name__}: {error}"
            with self._lock:
                if failure is None:
                    tally.done += 1
                    tally.seconds.append(time.monotonic() - began)
                else:
                    tally.failures.append(f"{time.strftime('%H:%M:%S')} {failure}")
            self._end.wait(PAUSE_S)
