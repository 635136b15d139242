"""Many files into one folder: none is done twice, and one that fails stops no other.

A later run with the same recording, options and formats skips the file; a new recording or other options do
it again. Files that this tool did not write are never overwritten unless asked. `outputs` keeps the books.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, cast

import anyio
import anyio.to_thread

from orchestrator.client import outputs
from orchestrator.client.options import TranscribeArgs, TranscribeOptions
from orchestrator.client.outputs import Target
from orchestrator.errors import ServerUnavailableError, SpeechError
from orchestrator.progress import ProgressReporter, SilentProgress
from orchestrator.transcript import formats
from orchestrator.transcript.models import Transcript
from orchestrator.transcript.routing import RoutingRecord

FILES_AT_ONCE: Final = 4
"""Files decoded and in memory at the same time; an hour of audio is 230 MB. Requests in flight have a bound
of their own."""


class BatchArgs(TranscribeArgs, total=False):
    """The keyword arguments of ``transcribe_many``: those of ``transcribe``, and these."""

    formats: Sequence[str]
    """Names of transcript formats; ``("json",)`` if left out."""
    overwrite: bool
    """Do finished files again, and replace files that this tool did not write."""
    files_at_once: int
    progress: ProgressReporter | None


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of one file.

    Attributes:
        source: as it was given.
        status: ``skipped`` where an earlier run had done it.
        outputs: what was, or had been, written.
        error: why it failed.
        duration_s: of the recording; 0 where it was not decoded now.
        elapsed_s: the time it took.
        routing: which engine did it, and why; None where nothing was done now.
    """

    source: Path
    status: Literal["done", "skipped", "failed"]
    outputs: tuple[Path, ...] = ()
    error: SpeechError | None = None
    duration_s: float = 0.0
    elapsed_s: float = 0.0
    routing: RoutingRecord | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "source": str(self.source),
            "status": self.status,
            "outputs": [str(path) for path in self.outputs],
            "error": None if self.error is None else self.error.to_dict(),
            "duration_s": round(self.duration_s, 3),
            "elapsed_s": round(self.elapsed_s, 3),
            "engine": None if self.routing is None else self.routing.engine,
        }


Transcribe = Callable[..., Awaitable[Transcript]]


async def run_batch(
    transcribe: Transcribe, sources: Sequence[str | Path], output_dir: str | Path, args: BatchArgs
) -> list[FileResult]:
    """Transcribe ``sources`` with ``transcribe`` into ``output_dir``; results in the order of the sources.

    Raises:
        ConfigurationError: an option is wrong, a source is named twice, or the folder cannot be written.
    """
    options: dict[str, Any] = dict(args)
    names = tuple(dict.fromkeys(options.pop("formats", None) or ("json",)))
    for name in names:
        formats.suffix(name)
    overwrite = bool(options.pop("overwrite", False))
    at_once = int(options.pop("files_at_once", FILES_AT_ONCE))
    progress: ProgressReporter = options.pop("progress", None) or SilentProgress()
    chosen = TranscribeOptions.parse(cast("TranscribeArgs", options))
    targets = outputs.plan([Path(source) for source in sources], Path(output_dir), names)
    await anyio.to_thread.run_sync(outputs.prepare, Path(output_dir))
    batch = _Batch(partial(transcribe, **options), chosen, overwrite, progress, len(targets))
    return await batch.run(targets, at_once)


class _Batch:
    """One run over many files."""

    def __init__(
        self,
        transcribe: Transcribe,
        options: TranscribeOptions,
        overwrite: bool,
        progress: ProgressReporter,
        total: int,
    ) -> None:
        self._transcribe = transcribe
        self._options = options
        self._overwrite = overwrite
        self._progress = progress
        self._all = progress.task("files", total=total)
        self._finished = 0
        self._unreachable: ServerUnavailableError | None = None
        self._reached = False

    async def run(self, targets: Sequence[Target], at_once: int) -> list[FileResult]:
        results: list[FileResult | None] = [None] * len(targets)
        limiter = anyio.CapacityLimiter(max(1, at_once))

        async def one(index: int, target: Target) -> None:
            async with limiter:
                results[index] = await self._file(target)
            self._finished += 1
            self._all.update(completed=self._finished)

        async with anyio.create_task_group() as group:
            for index, target in enumerate(targets):
                group.start_soon(one, index, target)
        self._all.finish()
        return [result for result in results if result is not None]

    async def _file(self, target: Target) -> FileResult:
        started = time.monotonic()
        try:
            key = await anyio.to_thread.run_sync(outputs.key_of, target, self._options)
            if await anyio.to_thread.run_sync(outputs.is_done, target, key) and not self._overwrite:
                return FileResult(target.source, "skipped", tuple(target.outputs.values()))
            if not self._overwrite:
                await anyio.to_thread.run_sync(outputs.refuse_foreign, target)
            if self._unreachable is not None and not self._reached:
                raise self._unreachable  # never reached: do not wait through all retries for each file
            transcript = await self._transcribe(target.source, progress=self._progress)
            self._reached = True
            await anyio.to_thread.run_sync(outputs.write, target, key, transcript)
        except SpeechError as error:
            if isinstance(error, ServerUnavailableError):
                self._unreachable = self._unreachable or error
            return FileResult(target.source, "failed", error=error, elapsed_s=time.monotonic() - started)
        return FileResult(
            target.source,
            "done",
            tuple(target.outputs.values()),
            duration_s=transcript.duration,
            elapsed_s=time.monotonic() - started,
            routing=transcript.routing,
        )
