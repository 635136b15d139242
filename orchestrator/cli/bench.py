"""``spark-speech bench``: measure accuracy, speed, load, starts, the demo: one command each."""

from __future__ import annotations

import typer

from orchestrator.cli.bench_accuracy import (
    accuracy,
    diarization,
    online_speakers,
    streaming_accuracy,
    word_times,
)
from orchestrator.cli.bench_load import gateway, overload, streams
from orchestrator.cli.bench_speed import demo, overhead, stitching, throughput
from orchestrator.cli.bench_starts import coldstart, startup


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    group = typer.Typer(
        help="Measure: accuracy, overhead, growth, live streams, the demo.", no_args_is_help=True
    )
    for verb in (
        accuracy,
        overhead,
        throughput,
        diarization,
        stitching,
        streams,
        gateway,
        overload,
        startup,
        coldstart,
        demo,
    ):
        group.command(verb.__name__)(verb)
    group.command("online-speakers")(online_speakers)
    group.command("word-times")(word_times)
    group.command("streaming-accuracy")(streaming_accuracy)
    app.add_typer(group, name="bench")
