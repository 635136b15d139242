"""``spark-speech bench``: how long a start takes, and from which caches."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orchestrator.cli.bench_common import ReleaseName, release_named, show
from orchestrator.cli.common import JsonFlag, settings_of
from orchestrator.errors import ConfigurationError

if TYPE_CHECKING:
    from orchestrator.settings import Settings


def startup(
    ctx: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Option(help="The engine's files; by default those of the current release's parakeet."),
    ] = None,
    synthetic: Annotated[
        Literal["0.6b", "tiny"] | None, typer.Option(help="Random weights of this shape instead.")
    ] = None,
    device: Annotated[str, typer.Option(help="A torch device: cpu, cuda or cuda:<number>.")] = "cpu",
    repeats: Annotated[int, typer.Option(help="Fresh processes, one after another.", min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="Length of the recording.", min=1, max=30)] = 10.0,
    as_json: JsonFlag = False,
) -> None:
    """Parakeet from the start of its process to its first transcript, stage by stage."""

    from orchestrator.bench import startup as bench
    from orchestrator.progress import RichProgress
    from orchestrator.repository.plan import version_folder

    with RichProgress() as progress, TemporaryDirectory(prefix="spark-speech-bench-") as scratch:
        if synthetic is not None:
            from orchestrator.bench.synthetic import write

            folder = Path(scratch)
            precision: Literal["float32", "bfloat16"] = "float32" if device == "cpu" else "bfloat16"
            write(folder, shape=synthetic, device=device, precision=precision)
        elif folder is None:
            folder = release_named(settings_of(ctx), "current").model_repository / version_folder("parakeet")
        cache = settings_of(ctx).paths.home / "cache" / "gpu"
        report = bench.run(
            folder,
            device=device,
            repeats=repeats,
            seconds=seconds,
            cache=cache,
            weights="--folder FOLDER" if synthetic is None else f"--synthetic {synthetic}",
            progress=progress,
        )
    show(report, as_json=as_json)


def coldstart(
    ctx: typer.Context,
    engines: Annotated[
        str, typer.Option(metavar="NAME,NAME,...", help="Engines; by default all of the release.")
    ] = "",
    folders: Annotated[
        list[str] | None,
        typer.Option(
            "--folder",
            metavar="ENGINE=FOLDER",
            help="An engine's files, instead of the release's; repeatable.",
        ),
    ] = None,
    release: ReleaseName = "current",
    device: Annotated[str, typer.Option(help="A torch device: cpu, cuda or cuda:<number>.")] = "cpu",
    repeats: Annotated[int, typer.Option(help="Fresh processes for each engine and state.", min=1)] = 3,
    seconds: Annotated[float, typer.Option(help="Length of the recording.", min=1, max=30)] = 10.0,
    synthetic: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ENGINE=SHAPE",
            help="Random weights for whisper_torch or whisper_trt: large-v3, tiny or toy; repeatable.",
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=JSON", help="An option of the engines; repeatable."),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=JSON",
            help="Started with these options too, as in eager='{\"compile\": false}'; repeatable.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the stages as stacked bars as well.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Engines from cold and from warm caches to their first result, stage by stage; slower ones are told."""
    from orchestrator.bench.coldstart import benchmark as bench
    from orchestrator.progress import RichProgress

    if plot is not None and not plot.expanduser().parent.is_dir():
        raise ConfigurationError(
            f"there is no folder for the plot {plot}", fix="name a file in a folder that is there", path=plot
        )
    home = settings_of(ctx).paths.home
    chosen = dict(_named_json(pair, "--option") for pair in options or [])
    others = dict(_named_json(pair, "--compare") for pair in compare or [])
    if wrong := [name for name, more in others.items() if not isinstance(more, dict)]:
        raise ConfigurationError(
            f"--compare {wrong[0]} has no JSON object", fix="--compare eager='{\"compile\": false}'"
        )
    with RichProgress() as progress, TemporaryDirectory(prefix="spark-speech-bench-") as scratch:
        made = _random_weights(synthetic or [], Path(scratch), device)
        found = (
            {}
            if made and not (engines or folders)
            else _engine_folders(settings_of(ctx), engines, folders or [], release)
        )
        found |= made
        report, bars = bench.run(
            found,
            device=device,
            repeats=repeats,
            seconds=seconds,
            cache=home / "bench" / "coldstart-cache",
            kept=home / "bench" / "coldstart.jsonl",
            options=chosen,
            compare=others,
            command=_again(ctx),
            progress=progress,
        )
    show(report, as_json=as_json)
    if plot is not None:
        from orchestrator.bench.coldstart.plot import draw

        draw(bars, f"{report.title}; {report.machine}", plot.expanduser())


def _again(ctx: typer.Context) -> str:
    """The command as it was given, options left at their defaults left out."""
    words = [ctx.command_path]
    for parameter in ctx.command.params:
        value = ctx.params.get(parameter.name or "")
        if value is None or value == parameter.default or parameter.name == "as_json":
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [parameter.opts[0], shlex.quote(str(one))]
    return " ".join(words)


def _named_json(pair: str, option: str) -> tuple[str, Any]:
    """``NAME=JSON``, as a name and a value."""
    name, equals, text = pair.partition("=")
    try:
        if not (equals and name.strip()):
            raise ValueError("there is no name")
        return name.strip(), json.loads(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{option} {pair!r} is no NAME=JSON: {error}", fix=f"for example {option} beam_size=1"
        ) from error


def _random_weights(pairs: list[str], scratch: Path, device: str) -> dict[str, Path]:
    """Folders of random weights for ``ENGINE=SHAPE``."""
    if not pairs:
        return {}
    from orchestrator.bench import synthetic_whisper

    found = {}
    for pair in pairs:
        engine, _, shape = pair.partition("=")
        if engine not in ("whisper_torch", "whisper_trt") or shape not in synthetic_whisper.SHAPES:
            raise ConfigurationError(
                f"--synthetic {pair!r} is no ENGINE=SHAPE",
                fix=f"whisper_torch=SHAPE or whisper_trt=SHAPE, with {', '.join(synthetic_whisper.SHAPES)}",
            )
        found[engine] = scratch / engine
        precision: Literal["float32", "float16"] = "float32" if device == "cpu" else "float16"
        synthetic_whisper.write(found[engine], shape=shape, device=device, precision=precision)
    return found


def _engine_folders(settings: Settings, engines: str, folders: list[str], release: str) -> dict[str, Path]:
    """Each engine's files: those that were named, else those of the release."""
    from orchestrator.engines import names, spec
    from orchestrator.repository.plan import version_folder

    found = {}
    for pair in folders:
        name, equals, folder = pair.partition("=")
        if not equals:
            raise ConfigurationError(f"--folder {pair!r} is no ENGINE=FOLDER", fix="--folder parakeet=DIR")
        found[spec(name).name] = Path(folder).expanduser()
    asked = [name.strip() for name in engines.split(",") if name.strip()]
    wanted = [spec(name).name for name in asked] or ([] if found else list(names()))
    missing = [name for name in wanted if name not in found]
    if missing:
        repository = release_named(settings, release).model_repository
        for name in missing:
            folder_of = repository / version_folder(name)
            if folder_of.is_dir():
                found[name] = folder_of
            elif asked:
                raise ConfigurationError(
                    f"the release has no {name}", fix=f"build one with it, or --folder {name}=FOLDER"
                )
    return {name: found[name] for name in wanted or found if name in found}
