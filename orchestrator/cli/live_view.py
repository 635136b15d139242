"""A live stream on a terminal: finals scroll, what is not final yet is redrawn below them."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from orchestrator.transcript.formats.fields import one_line
from orchestrator.transcript.formats.plain import clock

if TYPE_CHECKING:
    from orchestrator.client import StreamEvent
    from orchestrator.transcript.models import Segment

_COLOURS: Final = ("cyan", "green", "magenta", "yellow", "blue", "red")
_REFRESH_HZ: Final = 10


class LiveView:
    """Shows events as they come; a context manager. Without a terminal, only what is final, line by line."""

    def __init__(self, console: Console) -> None:
        """Show on ``console``."""
        self._console = console
        self._partials: dict[int, Text] = {}
        self._speakers: dict[str, str] = {}
        self._live = (
            Live(Text(), console=console, transient=True, refresh_per_second=_REFRESH_HZ)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, event: StreamEvent) -> None:
        """Show what ``event`` changes."""
        from orchestrator.client import Final as FinalEvent
        from orchestrator.client import Partial, Reconnected, SpeakerChange

        if isinstance(event, Partial):
            self._partials[event.utterance] = Text(_line(event.segment), style="dim")
        elif isinstance(event, FinalEvent):
            self._partials.pop(event.utterance, None)
            self._print(event.segment)
        elif isinstance(event, SpeakerChange):
            self._print(event.segment, note="better known: ")
        elif isinstance(event, Reconnected):
            self.note(f"The server was away for {event.after_s:.1f} s; nothing is lost.")
        if self._live is not None:
            lines = [line for _, line in sorted(self._partials.items())]
            self._live.update(Group(*lines), refresh=not isinstance(event, Partial))

    def note(self, text: str) -> None:
        """Say something that is no speech."""
        if self._console.is_terminal:
            self._console.print(Text(text, style="yellow"))

    def _print(self, segment: Segment, note: str = "") -> None:
        from orchestrator.client.stream.results import by_speaker

        for part in by_speaker(segment):
            line = Text(f"[{clock(part.start)}] {note}", style="dim")
            if part.speaker is not None:
                line.append(f"{one_line(part.speaker)}: ", style=f"not dim bold {self._colour(part.speaker)}")
            line.append(one_line(part.text), style="not dim")
            self._console.print(line, soft_wrap=True)

    def _colour(self, speaker: str) -> str:
        return self._speakers.setdefault(speaker, _COLOURS[len(self._speakers) % len(_COLOURS)])


def _line(segment: Segment) -> str:
    return f"[{clock(segment.start)}] {one_line(segment.text)}" if segment.words else ""
