"""``spark-speech doctor kernels``: which GPU code runs as it is, which is compiled first, which fails."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.common import JsonFlag, emit, settings_of
from orchestrator.errors import ConfigurationError, NotRunningError

if TYPE_CHECKING:
    from orchestrator.coldstart.kernel_report import KernelReport
    from orchestrator.coldstart.kernel_sources import Found
    from orchestrator.coldstart.kernel_verdict import FileVerdict

_STYLES: Final = {"native": "green", "jit": "yellow", "fails": "red", None: "dim"}


def register(group: typer.Typer) -> None:
    """Add the verb to ``doctor``."""
    group.command("kernels")(kernels)


def kernels(
    ctx: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATH|IMAGE]",
            help="A library, a folder, a virtual environment, a container's root, an image's archive or name;"
            " by default this Python's environment.",
            show_default=False,
        ),
    ] = None,
    running: Annotated[
        bool, typer.Option("--running", help="What the running server and its models have loaded.")
    ] = False,
    pid: Annotated[int | None, typer.Option(help="What this process has loaded.", min=1)] = None,
    target: Annotated[str, typer.Option(help="The GPU: sm_121 is a DGX Spark's.")] = "sm_121",
    driver: Annotated[
        str | None,
        typer.Option(
            help="The driver's version, such as 580; by default this machine's.", show_default=False
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="The CUDA runtime's version, such as 12.8; by default what each file needs.",
            show_default=False,
        ),
    ] = None,
    variables: Annotated[
        list[str] | None,
        typer.Option(
            "--env",
            metavar="NAME=VALUE",
            help="A variable of the process that will run it; may be repeated. By default those of the"
            " process or image audited, or of this shell.",
        ),
    ] = None,
    claimed: Annotated[
        str | None,
        typer.Option(help="What the program is told the GPU is, to see what that does.", show_default=False),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 as well when anything is compiled first.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="List the files that run natively as well.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Which GPU code runs as it is, which the driver compiles first, which fails; runs nothing.

    Exits with 1 when any file fails.
    """
    from tempfile import TemporaryDirectory

    from orchestrator.coldstart import claims, kernel_report
    from orchestrator.coldstart.compatibility import JitPolicy, Platform
    from orchestrator.coldstart.driver import installed_driver
    from orchestrator.coldstart.elf import require
    from orchestrator.coldstart.gpu_target import GpuTarget, parse_version
    from orchestrator.progress import RichProgress

    if sum((source is not None, running, pid is not None)) > 1:
        raise ConfigurationError(
            "PATH, --running and --pid exclude each other", fix="name one thing to look at"
        )
    require()
    gpu = GpuTarget.parse(target)
    told = None if claimed is None else GpuTarget.parse(claimed)
    given = _pairs(variables or [])
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="spark-speech-audit-")))
        if running:
            name, found = "the running server", _running(settings_of(ctx).paths.home)
        elif pid is not None:
            from orchestrator.coldstart.kernel_sources import of_process

            name, found = f"process {pid}", of_process(pid)
        else:
            name, found = _still(source, scratch)
        known = found.environment is not None
        base = found.environment if found.environment is not None else dict(os.environ)
        environment = {**base, **given}
        platform = Platform(
            gpu=gpu,
            driver=installed_driver() if driver is None else parse_version(driver, "a driver"),
            runtime=None if runtime is None else parse_version(runtime, "CUDA"),
            jit=JitPolicy.of(environment),
        )
        notes = kernel_report.platform_notes(platform)
        notes += kernel_report.environment_notes(environment) if known or given else []
        notes += claims.preload_notes(environment)
        notes += [] if told is None else [claims.claim_note(told, gpu)]
        progress = stack.enter_context(RichProgress())
        report = kernel_report.audit(name, found, platform, notes=notes, progress=progress)
    emit(report.to_dict(), lambda console: _print(console, report, every=every), as_json=as_json)
    raise typer.Exit(0 if report.runs and (report.compiles_nothing or not strict) else 1)


def _pairs(variables: list[str]) -> dict[str, str]:
    pairs = {}
    for variable in variables:
        name, equals, value = variable.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"--env {variable!r} is no NAME=VALUE", fix="--env CUDA_FORCE_PTX_JIT=0")
        pairs[name] = value
    return pairs


def _still(source: str | None, scratch: Path) -> tuple[str, Found]:
    """A file, folder or image."""
    import sys

    from orchestrator.coldstart import kernel_images
    from orchestrator.coldstart.kernel_sources import of_path

    path = Path(sys.prefix) if source is None else Path(source).expanduser()
    if source is not None and not os.path.lexists(path):
        return source, kernel_images.of_archive(kernel_images.saved(source, scratch), scratch)
    if kernel_images.is_archive(path):
        return str(path), kernel_images.of_archive(path, scratch)
    return str(path), of_path(path)


def _running(home: Path) -> Found:
    """The server of this home, and the processes of its models."""
    import psutil

    from orchestrator.coldstart.kernel_sources import Found, of_process
    from orchestrator.runtime.state import read

    state = read(home)
    process = None if state is None else state.process()
    if process is None:
        raise NotRunningError(
            f"no server of {home} is running",
            fix="start one with `spark-speech up`, or name a process: --pid PID",
            path=home,
        )
    found = Found()
    seen = set()
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        family = [process]
    for member in family:
        part = of_process(member.pid)
        found.environment = found.environment or part.environment
        for candidate in part.candidates:
            if candidate.shown not in seen:
                seen.add(candidate.shown)
                found.candidates.append(candidate)
    return found


def _print(console: Console, report: KernelReport, *, every: bool) -> None:
    for note in report.notes:
        console.print(f"[yellow]note[/] {escape(note)}", highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    shown = [verdict for verdict in report.files if every or str(verdict.outcome) != "native"]
    fixes = []
    for verdict in shown:
        if verdict.outcome is not None or verdict.problems:
            _add(table, verdict)
            fixes += [fix for fix in verdict.fixes if fix not in fixes]
    console.print(table, highlight=False)
    for fix in fixes:
        console.print(f"Fix: {escape(fix)}", style="dim", highlight=False)
    for problem in report.problems:
        console.print(f"[yellow]not read[/] {escape(problem)}", highlight=False)
    console.print(_summary(report), highlight=False)


def _add(table: Table, verdict: FileVerdict) -> None:
    name = escape(Path(verdict.path).name)
    outcome = "unknown" if verdict.outcome is None else str(verdict.outcome)
    style = _STYLES[None if verdict.outcome is None else str(verdict.outcome)]
    table.add_row(f"[{style}]{outcome}[/]", name, escape(verdict.text))
    for problem in verdict.problems:
        table.add_row("", "", f"[red]{escape(problem)}[/]")


def _summary(report: KernelReport) -> str:
    from orchestrator.coldstart.compatibility import Outcome
    from orchestrator.coldstart.jit_cost import shown_seconds

    native, jit, fails = (report.count(outcome) for outcome in Outcome)
    cost = f" (at most {shown_seconds(report.jit_s)} on one core, if all of it is used)" if jit else ""
    return (
        f"[bold]{report.platform.gpu}[/]: {native} files native, {jit} with code to compile first{cost},"
        f" {fails} without code that runs. Read {report.read} files, {report.read_bytes / 1e9:.1f} GB,"
        f" in {report.seconds:.1f} s."
    )
