"""``spark-speech build``, ``verify`` and ``releases``: make, check and list Triton model repositories."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from orchestrator.cli.common import JsonFlag, emit, settings_of
from orchestrator.errors import ConfigurationError

if TYPE_CHECKING:
    from orchestrator.progress import ProgressTask
    from orchestrator.repository.builder import BuildResult
    from orchestrator.repository.plan import Architecture, BuildPlan, ModelOptions
    from orchestrator.settings import Settings

Number = TypeVar("Number", int, float)


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    app.command("build")(build)
    app.command("verify")(verify)
    app.command("releases")(releases)


def build(
    ctx: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME=SOURCE",
            help="A model to put into the release; may be repeated. SOURCE is `embedded`, a local path, or a "
            "hub id with an optional @revision. It takes the place of the same name in the settings' "
            "build.models, and the other models there stay.",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda", help="Where the models run.", show_default=False)
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="x86_64|aarch64",
            help="The processor of the machine that will serve; this one's by default. For another one, "
            "the checks that need that machine are left out.",
            show_default=False,
        ),
    ] = None,
    max_window: Annotated[
        list[str] | None,
        typer.Option(
            "--max-window", metavar="NAME=SECONDS", help="The longest audio one request of a model may have."
        ),
    ] = None,
    max_batch: Annotated[
        list[str] | None,
        typer.Option("--max-batch", metavar="NAME=N", help="The most requests in one call of a model."),
    ] = None,
    instances: Annotated[
        list[str] | None,
        typer.Option(
            "--instances",
            metavar="NAME=N",
            help="Processes that serve a model, each with the weights of its own: one works while another "
            "waits for its data.",
        ),
    ] = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Show what would be built; do nothing.")] = False,
    load_check: Annotated[
        bool,
        typer.Option(
            "--load-check/--no-load-check",
            help="Try the release on this machine before it is called good: its GPUs, and a load in "
            "tritonserver where there is one.",
        ),
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Build a Triton model repository as a release, and make it the current one."""
    settings = settings_of(ctx)
    options = _options(max_window or [], max_batch or [], instances or [])
    plan = _plan(settings, models or [], device, target, options)
    if plan_only:
        _show_plan(plan, settings, as_json=as_json)
        return
    result = _build(plan, settings, load_check=load_check)

    def human(console: Console) -> None:
        release = result.release
        state = "Built" if result.created else "Already built"
        console.print(
            f"{state}: release [bold]{release.id[:16]}[/] with {', '.join(release.models)} "
            f"({_size(release.manifest.total_bytes)}, for {release.manifest.target}, "
            f"{release.manifest.device})",
            highlight=False,
        )
        for check in result.checks:
            detail = f" ({check.detail})" if check.detail else ""
            console.print(f"  {check.name}: {check.outcome}{detail}", highlight=False, markup=False)
        for note in result.notes:
            console.print(f"  {note}", highlight=False, markup=False)
        console.print(str(release.model_repository), highlight=False, markup=False, soft_wrap=True)

    emit(result.to_dict(), human, as_json=as_json)


def verify(
    ctx: typer.Context,
    release: Annotated[str, typer.Argument(help="The start of a release's id, or `current`.")] = "current",
    as_json: JsonFlag = False,
) -> None:
    """Recompute the digest of every file of a release."""
    from orchestrator.progress import RichProgress
    from orchestrator.repository.release import ReleaseStore
    from orchestrator.repository.release import verify as verify_release

    found = ReleaseStore(settings_of(ctx).paths.home).find(release)
    with RichProgress() as progress:
        task = progress.task(f"release {found.id[:16]}", float(found.manifest.total_bytes))
        verify_release(found, _counting(task))
        task.finish()
    count, size = len(found.manifest.files), found.manifest.total_bytes
    emit(
        {"id": found.id, "verified": True, "files": count, "bytes": size},
        lambda console: console.print(
            f"Release {found.id[:16]}: {count} files, {_size(size)}, all as built", highlight=False
        ),
        as_json=as_json,
    )


def releases(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """List the releases here, newest first."""
    from orchestrator.repository.release import ReleaseStore

    store = ReleaseStore(settings_of(ctx).paths.home)
    found, current = store.all(), store.current_id()
    damaged = sorted(set(store.ids()) - {release.id for release in found})

    def human(console: Console) -> None:
        if not found and not damaged:
            console.print("No releases yet. Build one: spark-speech build")
            return
        table = Table("", "Release", "Built", "For", "Models", "Size", box=None, pad_edge=False)
        for release in found:
            table.add_row(
                "*" if release.id == current else "",
                release.id[:16],
                f"{release.built_at:%Y-%m-%d %H:%M} UTC",
                f"{release.manifest.target} {release.manifest.device}",
                " ".join(f"{model.name}={model.source}" for model in release.manifest.models),
                _size(release.manifest.total_bytes),
            )
        for release_id in damaged:
            table.add_row("*" if release_id == current else "", release_id[:16], "damaged", "", "", "")
        console.print(table)

    data = {
        "current": current,
        "releases": [release.to_dict() for release in found],
        "damaged": damaged,
    }
    emit(data, human, as_json=as_json)


def _plan(
    settings: Settings,
    models: list[str],
    device: str | None,
    target: str | None,
    options: dict[str, ModelOptions],
) -> BuildPlan:
    from orchestrator.repository.plan import make_plan, with_models
    from orchestrator.repository.validate import device_named

    return make_plan(
        with_models(settings.build.models, models),
        device=device_named(device or settings.build.device),
        target=_target(target),
        options=options,
        streaming=settings.streaming,
        whisper=settings.whisper,
        precision=settings.build.precision,
    )


def _target(text: str | None) -> Architecture:
    from orchestrator.repository.validate import machine

    wanted = text or machine()
    if wanted == "x86_64":
        return "x86_64"
    if wanted == "aarch64":
        return "aarch64"
    raise ConfigurationError(f"there is no target {wanted!r}", fix="use --target x86_64 or aarch64")


def _options(windows: list[str], batches: list[str], instances: list[str]) -> dict[str, ModelOptions]:
    from orchestrator.repository.plan import ModelOptions

    lengths = _numbers("--max-window", "SECONDS", windows, float, "parakeet=60")
    most = _numbers("--max-batch", "N", batches, int, "parakeet=64")
    counts = _numbers("--instances", "N", instances, int, "parakeet=2")
    return {
        name: ModelOptions(
            max_window_s=lengths.get(name), max_batch_size=most.get(name), instances=counts.get(name)
        )
        for name in {*lengths, *most, *counts}
    }


def _numbers(
    option: str, unit: str, entries: list[str], number: Callable[[str], Number], example: str
) -> dict[str, Number]:
    values = {}
    for entry in entries:
        name, _, text = entry.partition("=")
        try:
            values[name.strip()] = number(text)
        except ValueError as error:
            raise ConfigurationError(
                f"{option} {entry!r} is not NAME={unit}", fix=f"for example {option} {example}"
            ) from error
    return values


def _build(plan: BuildPlan, settings: Settings, *, load_check: bool) -> BuildResult:
    from orchestrator import resources
    from orchestrator.progress import RichProgress
    from orchestrator.repository.builder import Builder, HubAccess
    from orchestrator.repository.loadcheck import server_load_check
    from orchestrator.repository.validate import machine

    home, token = settings.paths.home, settings.build.hub_token
    elsewhere = plan.target != machine()
    skip = None
    if elsewhere:
        skip = f"the release is for another machine ({plan.target})"
    elif not load_check:
        skip = "--no-load-check was given"
    with RichProgress() as progress:
        builder = Builder(
            home=home,
            models=resources.model_repository(),
            hub=HubAccess(
                endpoint=settings.build.hub_endpoint,
                token=None if token is None else token.get_secret_value(),
                offline=settings.build.offline,
            ),
            load=None if skip is not None else server_load_check(home, settings.server, progress),
            skip_machine=skip,
            progress=progress,
        )
        return builder.build(plan)


def _show_plan(plan: BuildPlan, settings: Settings, *, as_json: bool) -> None:
    from orchestrator.repository.release import ReleaseStore

    folder = ReleaseStore(settings.paths.home).folder

    def human(console: Console) -> None:
        console.print(
            f"For {plan.target}, {plan.device}, into {folder}/<id>:", highlight=False, soft_wrap=True
        )
        table = Table("Model", "Engine", "Source", "Batch", "Window", "Weights", box=None, pad_edge=False)
        for model in plan.models:
            known = [file["size"] for file in model.to_dict()["files"]]
            table.add_row(
                model.name,
                model.kind.engine,
                str(model.source),
                str(model.config.max_batch_size),
                f"{model.config.parameters['max_window_s']} s",
                _size(sum(known)) if known and None not in known else "known once fetched",
            )
        console.print(table)
        console.print(f"Versions recorded: {', '.join(plan.packages)}", highlight=False, soft_wrap=True)

    data: dict[str, Any] = {**plan.to_dict(), "releases": str(folder)}
    emit(data, human, as_json=as_json)


def _counting(task: ProgressTask) -> Any:
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        task.update(completed=done)

    return count


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"
