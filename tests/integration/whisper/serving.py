"""Releases of a Whisper checkpoint alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import resources
from orchestrator.repository.builder import Builder
from orchestrator.repository.plan import make_plan
from orchestrator.repository.validate import machine
from orchestrator.settings_engines import WhisperSettings

if TYPE_CHECKING:
    from orchestrator.repository.release import Release

MakeHome = Callable[[Path], Path]


def build(home: Path, model: str, source: Path, whisper: WhisperSettings, **builder: Any) -> Release:
    """The release of ``source`` alone; ``builder``: more of `Builder`."""
    plan = make_plan({model: str(source)}, target=machine(), whisper=whisper)  # type: ignore[arg-type]
    return Builder(home=home, models=resources.model_repository(), **builder).build(plan).release
