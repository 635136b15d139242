"""Where a batch writes: names that do not collide, records of what is done, files whole or not at all.

Beside the outputs a folder ``.spark-speech`` keeps one small JSON file for each source: the key of what was
done (the recording's bytes, the options, the formats) and the names of the outputs.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.client.options import TranscribeOptions
from orchestrator.errors import AudioNotFoundError, ConfigurationError, DiskFullError
from orchestrator.transcript import formats
from orchestrator.transcript.models import SCHEMA_VERSION, Transcript

STATE_FOLDER: Final = ".spark-speech"


class _Record(BaseModel):
    """The state file of one source."""

    model_config = ConfigDict(frozen=True)

    source: str
    key: str
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """Where one source's outputs go: ``folder/stem + suffix`` for each format."""

    source: Path
    folder: Path
    stem: str
    formats: tuple[str, ...]

    @property
    def outputs(self) -> dict[str, Path]:
        """The file of each format."""
        return {name: self.folder / f"{self.stem}{formats.suffix(name)}" for name in self.formats}

    @property
    def state(self) -> Path:
        """The file of its record."""
        return self.folder / STATE_FOLDER / f"{self.stem}.json"

    @property
    def identity(self) -> str:
        """The source's place, without telling it: outputs may be handed on together with the folder."""
        return hashlib.sha256(os.fsencode(self.source.resolve())).hexdigest()


def plan(sources: Sequence[Path], folder: Path, names: tuple[str, ...]) -> list[Target]:
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
    targets: list[Target] = []
    taken: set[str] = set()
    for source in sources:
        stem = source.stem
        if stems[stem.casefold()] > 1:
            stem = source.name
        if full[source.name.casefold()] > 1:
            stem = _distinct(source)
        target = Target(source, folder, stem, names)
        record = _read(target.state)
        if stem.casefold() in taken or (record is not None and record.source != target.identity):
            target = Target(source, folder, _distinct(source), names)
        taken.add(target.stem.casefold())
        targets.append(target)
    return targets


def _distinct(source: Path) -> str:
    digest = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()
    return f"{source.name}-{digest[:8]}"


def prepare(folder: Path) -> None:
    """Make the folder.

    Raises:
        ConfigurationError: it cannot be made.
    """
    try:
        (folder / STATE_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"The output folder {folder} cannot be written: {error.strerror}.",
            fix="name a folder that you may write to.",
            path=folder,
        ) from error


def key_of(target: Target, options: TranscribeOptions) -> str:
    """A digest of everything that decides the outputs: the recording's bytes, the options, the formats.

    Raises:
        AudioNotFoundError: the recording cannot be read.
    """
    wanted = options.model_dump(mode="json", exclude={"timeout"})
    if options.align is None:
        del wanted["align"]  # what was done before there was this option is done all the same
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


def is_done(target: Target, key: str) -> bool:
    """Whether an earlier run wrote all of ``target``'s files for the same ``key``."""
    record = _read(target.state)
    return record is not None and record.key == key and all(path.exists() for path in target.outputs.values())


def refuse_foreign(target: Target) -> None:
    """Stop before work is done whose outputs would replace somebody else's files.

    Raises:
        ConfigurationError: there is such a file.
    """
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


def write(target: Target, key: str, transcript: Transcript) -> None:
    """Write the outputs: first a record without a key, at last the one with it.

    So what an interruption leaves counts as this tool's own, and as not done.

    Raises:
        TranscriptFormatError: the transcript cannot be said in a format.
        DiskFullError: there is no room.
        ConfigurationError: the folder cannot be written.
    """
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
