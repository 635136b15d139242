"""Many files into one folder: each written whole or not at all, none done twice, one failure stops no other.

Beside the outputs a folder ``.spark-speech`` keeps one small JSON file for each source: the key of what was
done (the recording's bytes, the options, the formats) and the names of the outputs. A later run with the
same key skips the file; a new recording or other options do it again. Files that this tool did not write are
never overwritten unless asked.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, cast

import anyio
import anyio.to_thread
from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.client.options import TranscribeArgs, TranscribeOptions
from orchestrator.errors import (
    AudioNotFoundError,
    ConfigurationError,
    DiskFullError,
    ServerUnavailableError,
    SpeechError,
)
from orchestrator.progress import ProgressReporter, SilentProgress
from orchestrator.transcript import formats
from orchestrator.transcript.models import SCHEMA_VERSION, Transcript

STATE_FOLDER: Final = ".spark-speech"
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
    """

    source: Path
    status: Literal["done", "skipped", "failed"]
    outputs: tuple[Path, ...] = ()
    error: SpeechError | None = None
    duration_s: float = 0.0
    elapsed_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "source": str(self.source),
            "status": self.status,
            "outputs": [str(path) for path in self.outputs],
            "error": None if self.error is None else self.error.to_dict(),
            "duration_s": round(self.duration_s, 3),
            "elapsed_s": round(self.elapsed_s, 3),
        }


class _Record(BaseModel):
    """The state file of one source."""

    model_config = ConfigDict(frozen=True)

    source: str
    key: str
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Target:
    """Where one source's outputs go: ``folder/stem + suffix`` for each format."""

    source: Path
    folder: Path
    stem: str
    formats: tuple[str, ...]

    @property
    def outputs(self) -> dict[str, Path]:
        return {name: self.folder / f"{self.stem}{formats.suffix(name)}" for name in self.formats}

    @property
    def state(self) -> Path:
        return self.folder / STATE_FOLDER / f"{self.stem}.json"

    @property
    def identity(self) -> str:
        """The source's place, without telling it: outputs may be handed on together with the folder."""
        return hashlib.sha256(os.fsencode(self.source.resolve())).hexdigest()


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
    targets = plan([Path(source) for source in sources], Path(output_dir), names)
    await anyio.to_thread.run_sync(_prepare, Path(output_dir))
    batch = _Batch(partial(transcribe, **options), chosen, overwrite, progress, len(targets))
    return await batch.run(targets, at_once)


def plan(sources: Sequence[Path], folder: Path, names: tuple[str, ...]) -> list[_Target]:
    """Name the outputs: the source's stem; its whole name where stems clash; a digest where names do.

    Raises:
        ConfigurationError: a source is named twice.
    """
    resolved = Counter(source.resolve() for source in sources)
    twice = [str(path) for path, count in resolved.items() if count > 1]
    if twice:
        raise ConfigurationError(f"Named more than once: {', '.join(twice)}.", fix="name each file once.")
    stems = Counter(source.stem.casefold() for source in sources)
    full = Counter(source.name.casefold() for source in sources)
    targets = []
    for source in sources:
        stem = source.stem
        if stems[stem.casefold()] > 1:
            stem = source.name
        if full[source.name.casefold()] > 1:
            stem = _distinct(source)
        target = _Target(source, folder, stem, names)
        record = _read(target.state)
        if record is not None and record.source != target.identity:
            target = _Target(source, folder, _distinct(source), names)
        targets.append(target)
    return targets


def _distinct(source: Path) -> str:
    digest = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()
    return f"{source.name}-{digest[:8]}"


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

    async def run(self, targets: Sequence[_Target], at_once: int) -> list[FileResult]:
        results: list[FileResult | None] = [None] * len(targets)
        limiter = anyio.CapacityLimiter(max(1, at_once))

        async def one(index: int, target: _Target) -> None:
            async with limiter:
                results[index] = await self._file(target)
            self._finished += 1
            self._all.update(completed=self._finished)

        async with anyio.create_task_group() as group:
            for index, target in enumerate(targets):
                group.start_soon(one, index, target)
        self._all.finish()
        return [result for result in results if result is not None]

    async def _file(self, target: _Target) -> FileResult:
        started = time.monotonic()
        try:
            key = await anyio.to_thread.run_sync(_key, target, self._options)
            if await anyio.to_thread.run_sync(_is_done, target, key) and not self._overwrite:
                return FileResult(target.source, "skipped", tuple(target.outputs.values()))
            if not self._overwrite:
                await anyio.to_thread.run_sync(_refuse_foreign, target)
            if self._unreachable is not None and not self._reached:
                raise self._unreachable  # never reached: do not wait through all retries for each file
            transcript = await self._transcribe(target.source, progress=self._progress)
            self._reached = True
            await anyio.to_thread.run_sync(_write, target, key, transcript)
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
        )


def _prepare(folder: Path) -> None:
    try:
        (folder / STATE_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"The output folder {folder} cannot be written: {error.strerror}.",
            fix="name a folder that you may write to.",
            path=folder,
        ) from error


def _key(target: _Target, options: TranscribeOptions) -> str:
    """A digest of everything that decides the outputs: the recording's bytes, the options, the formats."""
    wanted = options.model_dump(mode="json", exclude={"timeout"})
    wanted |= {"formats": sorted(target.formats), "schema": SCHEMA_VERSION}
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode())
    try:
        with target.source.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise AudioNotFoundError(
            f"{target.source} cannot be read: {error.strerror}.",
            fix="check the name and the permissions.",
            path=target.source,
        ) from error
    return digest.hexdigest()


def _is_done(target: _Target, key: str) -> bool:
    record = _read(target.state)
    return record is not None and record.key == key and all(path.exists() for path in target.outputs.values())


def _refuse_foreign(target: _Target) -> None:
    """Stop before work is done whose outputs would replace somebody else's files."""
    record = _read(target.state)
    ours = set(record.outputs) if record is not None else set()
    foreign = [path for path in target.outputs.values() if path.exists() and path.name not in ours]
    if foreign:
        raise ConfigurationError(
            f"{foreign[0]} is there already and was not written by spark-speech.",
            fix="name another output folder, move the file away, or allow it to be replaced (--overwrite).",
            path=foreign[0],
        )


def _read(state: Path) -> _Record | None:
    try:
        return _Record.model_validate_json(state.read_bytes())
    except (OSError, ValidationError):  # not there, or damaged: then the file is simply done again
        return None


def _write(target: _Target, key: str, transcript: Transcript) -> None:
    """A record without a key, the outputs, the record: what an interruption leaves counts as ours, undone."""
    texts = {path: formats.dumps(transcript, name) for name, path in target.outputs.items()}
    outputs = tuple(path.name for path in texts)
    for stage in ("", key):
        record = _Record(source=target.identity, key=stage, outputs=outputs)
        write_text(target.state, record.model_dump_json() + "\n")
        if stage != key:
            for path, text in texts.items():
                write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` whole or not at all.

    Raises:
        DiskFullError: there is no room for it.
        ConfigurationError: the file cannot be written for another reason.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"There is no room left for {path}.",
                fix="free some space, then run the same command again: what is done is kept.",
                path=path,
            ) from error
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror}.", fix="name another output folder.", path=path
        ) from error
