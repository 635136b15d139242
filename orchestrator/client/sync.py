"""`SpeechClient`: `AsyncSpeechClient` for code that is not asynchronous, run on a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from typing_extensions import Unpack

from orchestrator.audio import Source
from orchestrator.client.aio import AsyncSpeechClient
from orchestrator.client.batch import BatchArgs, FileResult
from orchestrator.client.catalog import ModelCard
from orchestrator.client.options import TranscribeArgs
from orchestrator.client.stream.blocking import BlockingLiveStream
from orchestrator.client.stream.options import StreamArgs
from orchestrator.client.stream.sources import StreamSource
from orchestrator.client.triton import ServerStatus, closed_error
from orchestrator.progress import ProgressReporter
from orchestrator.settings import Settings
from orchestrator.transcript.models import Transcript

Result = TypeVar("Result")


class SpeechClient:
    """Transcribes recordings with the models of one Triton server. Threads may share one client.

    ::

        with SpeechClient("spark:8001") as client:
            print(client.transcribe("meeting.wav").text)

    Without ``with``, `close` it; one that is forgotten is closed when it is collected or at exit.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        settings: Settings | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Arguments and errors: see `AsyncSpeechClient`."""
        self._client = AsyncSpeechClient(url, settings=settings, metadata=metadata)
        self._loop = _LoopThread(self._client.close, self._client.host)
        self._closer = weakref.finalize(self, self._loop.stop)

    @property
    def host(self) -> str:
        """The server, ``host:port``."""
        return self._client.host

    def __enter__(self) -> SpeechClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls still running in other threads fail. Safe to call again."""
        self._closer()

    def server_status(self) -> ServerStatus:
        """See `AsyncSpeechClient.server_status`."""
        return self._loop.run(self._client.server_status())

    def models(self) -> tuple[ModelCard, ...]:
        """See `AsyncSpeechClient.models`."""
        return self._loop.run(self._client.models())

    def wait_ready(
        self, models: Sequence[str] = (), *, timeout: float | None = None
    ) -> tuple[ModelCard, ...]:
        """See `AsyncSpeechClient.wait_ready`."""
        return self._loop.run(self._client.wait_ready(models, timeout=timeout))

    def transcribe(
        self, source: Source, *, progress: ProgressReporter | None = None, **options: Unpack[TranscribeArgs]
    ) -> Transcript:
        """What was said in ``source``, by whom and when; see `AsyncSpeechClient.transcribe`."""
        return self._loop.run(self._client.transcribe(source, progress=progress, **options))

    def stream(self, source: StreamSource, **options: Unpack[StreamArgs]) -> BlockingLiveStream:
        """What is being said, as it is said; see `AsyncSpeechClient.stream`.

        ::

            for event in client.stream(Microphone()):
                if isinstance(event, Final):
                    print(event.segment.text)
        """
        return BlockingLiveStream(self._client.stream(source, **options), self._loop)

    def transcribe_many(
        self, sources: Sequence[str | Path], output_dir: str | Path, **options: Unpack[BatchArgs]
    ) -> list[FileResult]:
        """Transcribe files into a folder; see `AsyncSpeechClient.transcribe_many`."""
        return self._loop.run(self._client.transcribe_many(sources, output_dir, **options))


class _LoopThread:
    """An event loop in a daemon thread that runs coroutines for other threads until it is stopped."""

    def __init__(self, at_end: Callable[[], Coroutine[Any, Any, None]], host: str) -> None:
        self._host = host
        self._at_end = at_end
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._started = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._main, name="speech-client", daemon=True)
        self._thread.start()
        self._started.wait()

    def _main(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await self._stopping.wait()
        # Calls that still run are cancelled by asyncio.run on the way out; closing first gives them an error.
        await self._at_end()

    def run(self, job: Coroutine[Any, Any, Result]) -> Result:
        """Run ``job`` there and wait for it; an interruption here (Ctrl-C) cancels it there.

        Raises:
            ServiceError: the client is closed.
        """
        with self._lock:
            loop = self._loop
            if loop is None:
                job.close()
                raise closed_error(self._host)
            future = asyncio.run_coroutine_threadsafe(job, loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise closed_error(self._host) from None
        except BaseException:
            future.cancel()
            raise

    def post(self, job: Callable[[], None]) -> None:
        """Run ``job`` there soon; nothing where the client is closed.

        Takes no lock, so that a signal handler may call it whatever its thread is doing.
        """
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # closed since
                loop.call_soon_threadsafe(job)

    def stop(self) -> None:
        """Stop the loop and wait for its thread; what still runs is cancelled. Safe to call again."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None and self._stopping is not None:
                loop.call_soon_threadsafe(self._stopping.set)
        if threading.current_thread() is not self._thread:  # garbage may be collected there
            self._thread.join()
