"""Releases to roll out: real speech models that are ready in seconds, and some that are broken."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from orchestrator import resources
from orchestrator.repository.builder import Builder
from orchestrator.repository.plan import ModelOptions, make_plan
from orchestrator.repository.release import Release
from orchestrator.repository.validate import machine
from orchestrator.settings import StreamingSettings

MODELS: Final = {"parakeet": "embedded", "parakeet_streaming": "embedded"}
DEAF: Final = """
_execute = TritonPythonModel.execute


def execute(self, requests):
    \"\"\"Ready and quick, and says of every recording that nobody speaks in it.\"\"\"
    recognize = self.engine.recognize
    self.engine.recognize = lambda audio, *rest: recognize([one * 0 for one in audio], *rest)
    try:
        return _execute(self, requests)
    finally:
        self.engine.recognize = recognize


TritonPythonModel.execute = execute
"""
CRASHING: Final = """
def initialize(self, args):
    \"\"\"Weights that cannot be loaded.\"\"\"
    raise ValueError("the weights are of another kind")


TritonPythonModel.initialize = initialize
"""


class Releases:
    """Builds releases in one home.

    Args:
        home: the controller's home.
        scratch: for changed copies of the models.
    """

    def __init__(self, home: Path, scratch: Path) -> None:
        self.home = home
        self._scratch = scratch

    def good(self, number: int = 1) -> Release:
        """A release that works; each number (1 to 60) gives another one."""
        return self._build(number, resources.model_repository())

    def deaf(self, number: int = 1) -> Release:
        """One that loads, and does not hear what is said: only a transcript tells."""
        return self._build(number, self._changed("deaf", DEAF))

    def crashing(self, number: int = 1) -> Release:
        """One whose recogniser does not load."""
        return self._build(number, self._changed("crashing", CRASHING))

    def _build(self, number: int, models: Path) -> Release:
        plan = make_plan(
            MODELS,
            options={"parakeet": ModelOptions(max_window_s=30.0 + number)},
            target="aarch64" if machine() == "aarch64" else "x86_64",
            streaming=StreamingSettings(max_streams=8),
        )
        return Builder(home=self.home, models=models).build(plan).release

    def _changed(self, name: str, addition: str) -> Path:
        folder = self._scratch / name
        if not folder.exists():
            shutil.copytree(resources.model_repository(), folder)
            with (folder / "parakeet/1/model.py").open("a", encoding="utf-8") as file:
                file.write(addition)
        return folder
