"""One transcription beside its request: cancelled when the client goes, or when the gateway must stop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import ExitStack, suppress
from typing import Any, Final, Self

from starlette.types import Receive

from orchestrator.errors import SpeechError
from orchestrator.gateway.admission import Admission, stopping
from orchestrator.transcript.models import Transcript

HEAD_START_S: Final = 5.0
"""How long a stream waits with its head, so that an error may still have a status of its own."""
KEEP_ALIVE_S: Final = 10.0
"""How often a stream without news says that it lives, so that proxies leave it open."""


class ClientGoneError(SpeechError):
    """The client closed its connection; there is nobody to answer. Never leaves this package."""


class Work:
    """Runs a transcription; ``async with`` ends it however the request ends."""

    def __init__(
        self,
        job: Coroutine[Any, Any, Transcript],
        receive: Receive,
        admission: Admission,
        held: ExitStack,
    ) -> None:
        """Start ``job``.

        Args:
            job: the transcription.
            receive: where the client's going away shows; the body has been read.
            admission: tells when running work must end.
            held: closed as soon as the job has ended, with or without a result.
        """
        self._job = asyncio.create_task(job)
        # A callback, not a finally inside the job: a task cancelled before its first step runs nothing.
        self._job.add_done_callback(lambda _: held.close())
        self._gone = asyncio.create_task(_disconnected(receive))
        self._expired = asyncio.create_task(admission.expired.wait())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = (self._job, self._gone, self._expired)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError, SpeechError):
                await task

    async def result(self, wait_s: float | None = None) -> Transcript | None:
        """The transcript, or None when it is not there after ``wait_s`` seconds.

        Raises:
            ClientGoneError: the client has gone.
            ServerUnavailableError: the gateway stops, and its patience is at an end.
            SpeechError: the transcription failed.
        """
        waited = (self._job, self._gone, self._expired)
        done, _ = await asyncio.wait(waited, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        if self._job in done:
            return self._job.result()
        if self._gone in done:
            raise ClientGoneError("The client has gone.")
        if self._expired in done:
            raise stopping()
        return None


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
