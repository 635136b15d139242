"""How long jobs say how far they are, apart from who shows it.

Code that takes long takes a `ProgressReporter`; the command line passes `RichProgress`, a library caller
gets `SilentProgress` unless it passes its own.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class ProgressTask(Protocol):
    """One line of progress."""

    def update(
        self, *, completed: float | None = None, total: float | None = None, description: str | None = None
    ) -> None:
        """Set how much is done, of how much, and the text."""

    def finish(self, description: str | None = None) -> None:
        """Mark the line as done."""


class ProgressReporter(Protocol):
    """Where progress goes."""

    def task(self, description: str, total: float | None = None) -> ProgressTask:
        """Start a line; ``total`` None means of unknown length."""


class _SilentTask:
    def update(
        self, *, completed: float | None = None, total: float | None = None, description: str | None = None
    ) -> None:
        pass

    def finish(self, description: str | None = None) -> None:
        pass


class SilentProgress:
    """Shows nothing."""

    def task(self, description: str, total: float | None = None) -> ProgressTask:
        """Start a line nobody sees."""
        return _SilentTask()


class _RichTask:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def update(
        self, *, completed: float | None = None, total: float | None = None, description: str | None = None
    ) -> None:
        self._progress.update(self._task, completed=completed, total=total, description=description)

    def finish(self, description: str | None = None) -> None:
        total = self._progress.tasks[self._task].total or 1.0
        self._progress.update(self._task, completed=total, total=total, description=description)


class RichProgress:
    """Bars on a terminal (standard error by default); a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            console=console or Console(stderr=True),
        )

    def __enter__(self) -> RichProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def task(self, description: str, total: float | None = None) -> ProgressTask:
        """Start a bar."""
        return _RichTask(self._progress, self._progress.add_task(description, total=total))
