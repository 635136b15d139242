"""Releases of a Whisper checkpoint, in a real tritonserver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import resources
from orchestrator.repository.builder import Builder
from orchestrator.repository.plan import make_plan
from orchestrator.repository.validate import machine
from orchestrator.settings_engines import WhisperSettings
from tests.conftest import free_server_settings

if TYPE_CHECKING:
    from orchestrator.repository.release import Release
    from orchestrator.runtime.server import TritonServer
    from orchestrator.runtime.triton import TritonInstall

MakeHome = Callable[[Path], Path]


def build(home: Path, model: str, source: Path, whisper: WhisperSettings, **builder: Any) -> Release:
    """The release of ``source`` alone; ``builder``: more of `Builder`."""
    plan = make_plan({model: str(source)}, target=machine(), whisper=whisper)  # type: ignore[arg-type]
    return Builder(home=home, models=resources.model_repository(), **builder).build(plan).release


@contextmanager
def server_of(
    release: Release, home: Path, triton: TritonInstall, environment: Mapping[str, str] | None = None
) -> Iterator[TritonServer]:
    """A running server with ``release``."""
    from orchestrator.runtime.server import TritonServer

    with TritonServer(
        release.model_repository,
        release.models,
        triton=triton,
        home=home,
        settings=free_server_settings(),
        release=release.id,
        environment=environment,
    ) as server:
        yield server
