"""``spark-speech demo``: the whole way once, on a real recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from orchestrator.cli.common import JsonFlag, emit, settings_of

if TYPE_CHECKING:
    from orchestrator.runtime.demo import DemoResult


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("demo")(demo)


def demo(
    ctx: typer.Context,
    engine: Annotated[Literal["moonshine", "parakeet"], typer.Option(help="The recogniser.")] = "moonshine",
    as_json: JsonFlag = False,
) -> None:
    """Build, serve, transcribe a recording of two speakers, print who said what, and stop.

    Everything needed comes from Python packages; nothing keeps running, and a second run reuses everything.
    """
    from orchestrator.progress import RichProgress
    from orchestrator.runtime.demo import run_demo
    from orchestrator.runtime.process import ending_on_termination

    with ending_on_termination(), RichProgress() as progress:
        result = run_demo(settings_of(ctx), engine, progress)
    emit(result.to_dict(), lambda console: _show(result, console), as_json=as_json)


def _show(result: DemoResult, console: Console) -> None:
    transcript = result.transcript
    times = "word times estimated" if transcript.times_estimated else "word times measured"
    console.print(
        f"\n{result.recording.name}: {transcript.duration:.1f} s, {len(transcript.speakers)} speakers, "
        f"engine {transcript.engine} ({times})\n",
        highlight=False,
    )
    for segment in transcript.segments:
        when = f"{_clock(segment.start)} - {_clock(segment.end)}"
        who = segment.speaker or "(no speaker)"
        console.print(f"{when}  {who}: {segment.text}", highlight=False, markup=False, soft_wrap=True)
    steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.seconds.items())
    total = sum(result.seconds.values())
    console.print(f"\nTook {total:.1f} s: {steps}. Nothing is left running.", highlight=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    """``1:02.3``: minutes, seconds, tenths."""
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02}.{tenths % 10}"
