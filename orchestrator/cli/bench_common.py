"""What the verbs of ``spark-speech bench`` share: a release, a server of its own, showing a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import emit

if TYPE_CHECKING:
    from orchestrator.bench.recordings import Recording
    from orchestrator.bench.report import Report
    from orchestrator.client import SpeechClient
    from orchestrator.progress import ProgressReporter
    from orchestrator.repository.release import Release
    from orchestrator.settings import Settings

Recordings = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="A folder with a manifest.json of recordings; by default the one recording in pyannote.audio.",
        show_default=False,
    ),
]
ReleaseName = Annotated[str, typer.Option(help="The start of a release's id, or `current`.")]


def release_named(settings: Settings, name: str) -> Release:
    """The release whose id begins with ``name``, or the one that ``current`` names."""
    from orchestrator.repository.release import ReleaseStore

    return ReleaseStore(settings.paths.home).find(name)


def recordings_in(folder: Path | None) -> Sequence[Recording]:
    """The recordings of ``folder``, or the packaged one; raises as `recordings.from_folder` does."""
    from orchestrator.bench.recordings import from_folder, packaged

    return [packaged()] if folder is None else from_folder(folder)


def diarizer_of(settings: Settings, name: str) -> Path:
    """The folder of the diarizer's weights in the release called ``name``."""
    from orchestrator.repository.plan import version_folder

    return release_named(settings, name).model_repository / version_folder("diarizer")


@contextmanager
def serving(settings: Settings, release: Release, progress: ProgressReporter) -> Iterator[SpeechClient]:
    """A client of a temporary server over ``release``."""
    from orchestrator.client import SpeechClient
    from orchestrator.runtime import triton
    from orchestrator.runtime.process import ending_on_termination
    from orchestrator.runtime.temporary import temporary_server

    home = settings.paths.home
    installed = triton.install(home, home / "cache", progress)
    with (
        ending_on_termination(),
        temporary_server(settings, release, installed, progress, name="bench") as server,
        SpeechClient(server.url, settings=settings) as client,
    ):
        yield client


def show(report: Report, *, as_json: bool) -> None:
    """Print a report for people, or as JSON."""
    emit(report.to_dict(), report.print, as_json=as_json)
