"""``spark-speech prewarm``: nobody waits for a kernel to be compiled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from orchestrator.cli.common import JsonFlag, emit, settings_of

if TYPE_CHECKING:
    from orchestrator.coldstart.prewarm import PrewarmReport

MEASURE: Final = "SPARK_SPEECH_PREWARM_MEASURE"
"""A rollback says so by the environment: the version that it goes back to may not know the option."""


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("prewarm")(prewarm)


def prewarm(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Triton's gRPC; client.url if left out.", show_default=False),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="Only this model; may be repeated.", show_default=False),
    ] = None,
    max_ratio: Annotated[
        float,
        typer.Option(min=1.0, help="The first request of a size may take so much longer than later ones."),
    ] = 1.2,
    limit: Annotated[
        float, typer.Option(min=1.0, metavar="SECONDS", help="Begin no new size after that.")
    ] = 900,
    strict: Annotated[
        bool, typer.Option("--strict/--no-strict", help="Fail where a first request is slower than that.")
    ] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure",
            envvar=MEASURE,
            help="Compute each size until it is steady, or only once.",
        ),
    ] = True,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The server's folder of compiled code: say what is in it, and remember that.",
            show_default=False,
        ),
    ] = None,
    proof: Annotated[
        bool,
        typer.Option(
            "--proof", help="Fail where anything was compiled since --cache was remembered: after a restart."
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Let a running server compute every batch and duration once, and say what the first requests cost.

    Exit codes: 0 done, 1 a size could not be computed, or --strict or --proof says no.
    """
    from orchestrator.bench.throughput import clips
    from orchestrator.coldstart import compiled
    from orchestrator.coldstart import prewarm as prewarming
    from orchestrator.coldstart.warmup_calls import WarmupCalls
    from orchestrator.errors import ModelNotFoundError
    from orchestrator.progress import RichProgress

    if proof and cache is None:
        raise typer.BadParameter("it needs --cache", param_hint="--proof")
    if strict and not measure:
        raise typer.BadParameter("it needs measurements", param_hint="--strict")
    wanted = set(models or ())
    with WarmupCalls(url or settings_of(ctx).client.url, clips.material(noise=False)) as calls:
        served = calls.models()
        missing = wanted.difference(model.name for model in served)
        if missing or not served:
            raise ModelNotFoundError(
                f"{calls.host} has no model {', '.join(sorted(missing)) or 'at all'} that is ready",
                host=calls.host,
                fix="see what there is: `spark-speech engines --url`.",
            )
        chosen = [model for model in served if not wanted or model.name in wanted]
        with RichProgress() as progress:
            report = prewarming.prewarm(
                chosen, calls.round, max_ratio=max_ratio, limit_s=limit, measure=measure, progress=progress
            )
    if cache is not None:
        before, now = compiled.read_seal(cache), compiled.look(cache)
        report = replace(report, compiled=now, added=None if before is None else now.since(before))
        if not (proof and report.added):  # what was found must not be forgotten
            compiled.seal(cache, now)
    emit(report.to_dict(), lambda console: _show(report, console), as_json=as_json)
    unproven = proof and (report.added is None or bool(report.added))
    raise typer.Exit(1 if not report.computed or (strict and not report.warm) or unproven else 0)


def _show(report: PrewarmReport, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("model", "at once", "audio s", "cold ms", "first ms", "steady ms", "ratio"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in report.rows:
        figures = [row.cold_s, row.first_s, row.steady_s]
        shown = ["" if one is None else f"{one * 1000:.0f}" for one in figures]
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        style = None if not report.measured or row.warm(report.max_ratio) else "yellow"
        table.add_row(row.model, str(row.batch), f"{row.seconds:g}", *shown, ratio, style=style)
    console.print(table, highlight=False)
    console.print(report.summary, highlight=False, markup=False)
    if report.compiled is not None:
        size = report.compiled.total_bytes / 2**20
        console.print(f"Compiled code: {len(report.compiled.files)} files, {size:.0f} MiB", highlight=False)
