"""The whole way once: build, serve with a real tritonserver, transcribe a real recording, stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import orchestrator
from orchestrator import resources
from orchestrator.bench.recordings import packaged
from orchestrator.client import SpeechClient
from orchestrator.errors import ArtifactNotFoundError
from orchestrator.progress import ProgressReporter
from orchestrator.repository.builder import Builder, HubAccess
from orchestrator.repository.plan import make_plan
from orchestrator.repository.release import Release, ReleaseStore
from orchestrator.repository.validate import machine
from orchestrator.runtime import triton
from orchestrator.runtime.temporary import temporary_server
from orchestrator.settings import Settings
from orchestrator.transcript.models import Transcript

Engine = Literal["moonshine", "parakeet"]


@dataclass(slots=True)
class Stopwatch:
    """How long each step took, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step, also one that fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - began


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo gave: the transcript, the release that made it, and the seconds of each step."""

    transcript: Transcript
    release: str
    recording: Path
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return {
            "release": self.release,
            "recording": str(self.recording),
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "transcript": self.transcript.model_dump(mode="json"),
        }


def telephone_call() -> Path:
    """A 30 s telephone call of two people, from pyannote.audio's wheel.

    Raises:
        MissingDependencyError: pyannote.audio is not installed.
    """
    return packaged().audio


def synthetic_dialogue() -> Path:
    """Two synthetic voices that keep to the words the small Parakeet checkpoint knows; it lies beside it.

    Raises:
        ArtifactNotFoundError: the installation lacks it.
    """
    path = Path(orchestrator.__file__).parent / "training" / "checkpoint" / "dialogue.flac"
    if not path.is_file():
        raise ArtifactNotFoundError(
            "the demo's dialogue is missing", path=path, fix="install spark-speech again"
        )
    return path


RECORDINGS: Final[dict[Engine, Callable[[], Path]]] = {
    "moonshine": telephone_call,
    "parakeet": synthetic_dialogue,
}


def run_demo(settings: Settings, engine: Engine, progress: ProgressReporter) -> DemoResult:
    """Run the demo; what is fetched, unpacked and built stays in ``settings.paths.home`` for the next run.

    The server has ports, a state file and a log of its own, so one that runs from the home is not disturbed,
    and the release that is current stays so.

    Raises:
        SpeechError: a step failed; nothing is left running.
    """
    home, watch = settings.paths.home, Stopwatch()
    recording = RECORDINGS[engine]()
    with watch.step("tritonserver"):
        server = triton.install(home, home / "cache", progress)
    with watch.step("build"):
        release = _build(settings, engine, progress)
    with ExitStack() as serving:
        with watch.step("start"):
            running = serving.enter_context(
                temporary_server(settings, release, server, progress, name="demo")
            )
        with watch.step("transcribe"):
            transcript = _transcribe(running.url, recording, engine, settings, progress)
        with watch.step("stop"):
            serving.close()
    return DemoResult(transcript, release.id, recording, watch.seconds)


def _build(settings: Settings, engine: Engine, progress: ProgressReporter) -> Release:
    home = settings.paths.home
    store = ReleaseStore(home)
    current = store.current_id()
    plan = make_plan(
        {engine: "embedded", "diarizer": "embedded"},
        device="cpu",
        target="aarch64" if machine() == "aarch64" else "x86_64",
    )
    builder = Builder(
        home=home,
        models=resources.model_repository(),
        hub=HubAccess(offline=settings.build.offline),
        progress=progress,
    )
    release = builder.build(plan).release
    if current is not None and current in store.ids():
        store.activate(current)
    return release


def _transcribe(
    url: str, recording: Path, engine: Engine, settings: Settings, progress: ProgressReporter
) -> Transcript:
    task = progress.task(f"Transcribing {recording.name}")
    with SpeechClient(url, settings=settings) as client:
        transcript = client.transcribe(recording, engine=engine)
    task.finish(f"Transcribed {recording.name}")
    return transcript
