"""``spark-speech bench``: how much at once: live streams, the gateway, overload."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from orchestrator.cli.bench_common import show
from orchestrator.cli.common import JsonFlag, settings_of


def streams(
    ctx: typer.Context,
    numbers: Annotated[
        str, typer.Option("--streams", help="Numbers of streams to run, such as 100,300,600.")
    ] = "",
    search: Annotated[
        bool, typer.Option("--search", help="Search for the highest number that counts; without --streams.")
    ] = False,
    abort: Annotated[
        int | None, typer.Option(help="Begin this many streams whose clients vanish, instead.", min=1)
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of each run.", min=2)] = 20.0,
    search_minutes: Annotated[float, typer.Option(help="No new run of a search begins later.", min=0)] = 10.0,
    limit: Annotated[
        float | None,
        typer.Option(
            help="The highest p95 in ms that counts; by default 100 at 160 ms chunks, 500 at 960.", min=1
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="The weights: a folder or a .nemo file; by default the embedded ones.")
    ] = None,
    preset: Annotated[
        Literal["low_latency", "balanced", "throughput"] | None, typer.Option(help="Chunk and contexts.")
    ] = None,
    instances: Annotated[int | None, typer.Option(help="Instances of the model.", min=1)] = None,
    max_streams: Annotated[int | None, typer.Option(help="Streams that the server takes.", min=1)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    clients: Annotated[
        int | None, typer.Option(help="Client processes; by default one for each four cores.", min=1)
    ] = None,
    recording: Annotated[
        Path | None, typer.Option(help="What the streams say; by default a dialogue in this package.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Live streams in real time against a server of their own: latency, lag, and how many it bears."""
    from orchestrator.bench.streams import command as bench
    from orchestrator.progress import RichProgress
    from orchestrator.runtime.process import ending_on_termination

    asked = bench.Asked(
        streams=bench.numbers_of(numbers),
        search_s=60 * search_minutes if search or not (numbers or abort) else None,
        abort=abort,
        seconds=seconds,
        limit_ms=limit,
        source="embedded" if folder is None else str(folder.expanduser().absolute()),
        preset=preset,
        instances=instances,
        max_streams=max_streams,
        device=device,
        processes=clients,
        recording=recording,
    )
    settings = settings_of(ctx)
    with ending_on_termination(), RichProgress() as progress:
        report = bench.run(settings, asked, progress=progress)
    show(report, as_json=as_json)


def gateway(
    ctx: typer.Context,
    numbers: Annotated[
        str, typer.Option("--streams", metavar="N,N,...", help="Run these numbers of streams.")
    ] = "100,200,300,400,500",
    workers: Annotated[
        str, typer.Option(metavar="N,N,...", help="Gateway processes: one gateway after the other.")
    ] = "1",
    seconds: Annotated[float, typer.Option(help="Length of each run.", min=2)] = 15.0,
    triton: Annotated[
        bool, typer.Option("--triton", help="A tritonserver with the embedded model behind the gateway.")
    ] = False,
    clients: Annotated[
        int | None, typer.Option(help="Client processes; by default one for each four cores.", min=1)
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """The gateway's processor time a live stream, and the latency it adds to the server behind it."""
    from orchestrator.gateway import needs

    with needs.explained():
        from orchestrator.bench.gateway import command as bench
    from orchestrator.bench.streams.command import numbers_of
    from orchestrator.progress import RichProgress
    from orchestrator.runtime.process import ending_on_termination

    asked = bench.Asked(numbers_of(numbers), numbers_of(workers), seconds, triton, clients)
    with ending_on_termination(), RichProgress() as progress:
        report = bench.run(settings_of(ctx), asked, progress=progress)
    show(report, as_json=as_json)


def overload(
    ctx: typer.Context,
    streams: Annotated[int, typer.Option(help="Places of the gateway, all taken.", min=1)] = 64,
    crowds: Annotated[
        str, typer.Option(metavar="N,N,...", help="Calls a second by those who come too late.")
    ] = "50,200",
    seconds: Annotated[float, typer.Option(help="Length of each run.", min=2)] = 15.0,
    as_json: JsonFlag = False,
) -> None:
    """A gateway whose places are all taken: what the streams in them notice of a crowd that is refused."""
    from orchestrator.gateway import needs

    with needs.explained():
        from orchestrator.bench.gateway import overload as bench
    from orchestrator.bench.streams.command import numbers_of, spoken
    from orchestrator.progress import RichProgress
    from orchestrator.runtime.process import ending_on_termination

    with ending_on_termination(), RichProgress() as progress:
        report = bench.run(
            spoken(None),
            streams=streams,
            crowds=numbers_of(crowds),
            seconds=seconds,
            processes=1,
            progress=progress,
        )
    show(report, as_json=as_json)
