"""``spark-speech bench``: measure accuracy, overhead, growth, live streams, the demo: one command each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orchestrator.cli.common import JsonFlag, emit, settings_of
from orchestrator.errors import ConfigurationError

if TYPE_CHECKING:
    from orchestrator.bench.report import Report
    from orchestrator.client import SpeechClient
    from orchestrator.progress import ProgressReporter
    from orchestrator.repository.release import Release
    from orchestrator.settings import Settings

Recordings = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="A folder with a manifest.json of recordings; by default the one recording in pyannote.audio.",
        show_default=False,
    ),
]
ReleaseName = Annotated[str, typer.Option(help="The start of a release's id, or `current`.")]


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


def accuracy(
    ctx: typer.Context,
    recordings: Recordings = None,
    engine: Annotated[str, typer.Option(help="A recogniser of the release, or auto.")] = "auto",
    release: ReleaseName = "current",
    as_json: JsonFlag = False,
) -> None:
    """WER, cpWER and DER of the whole service, through a server of its own."""
    from orchestrator.bench import accuracy as bench
    from orchestrator.bench.recordings import from_folder, packaged
    from orchestrator.progress import RichProgress

    settings = settings_of(ctx)
    chosen = [packaged()] if recordings is None else from_folder(recordings)
    with RichProgress() as progress, _serving(settings, _release(settings, release), progress) as client:
        report = bench.run(client, chosen, engine=engine, progress=progress)
    _show(report, as_json=as_json)


def overhead(
    ctx: typer.Context,
    engine: Annotated[str, typer.Option(help="A recogniser of the release.")] = "moonshine",
    seconds: Annotated[float, typer.Option(help="Length of each recording.", min=1, max=20)] = 10.0,
    release: ReleaseName = "current",
    as_json: JsonFlag = False,
) -> None:
    """What Triton and the client add to an engine, side by side with the engine in this process."""
    from orchestrator import audio
    from orchestrator.bench import overhead as bench
    from orchestrator.bench.recordings import packaged
    from orchestrator.contract import SAMPLE_RATE_HZ, Task
    from orchestrator.engines import EngineSource, load
    from orchestrator.progress import RichProgress
    from orchestrator.repository.plan import version_folder

    settings = settings_of(ctx)
    found = _release(settings, release)
    recognisers = [model.name for model in found.manifest.models if model.task == Task.RECOGNIZE]
    if engine not in recognisers:
        raise ConfigurationError(
            f"release {found.id[:16]} has no recogniser {engine!r}",
            fix=f"use --engine {' or '.join(recognisers)}"
            if recognisers
            else "build one with `spark-speech build`",
        )
    # The call begins to be lively after 6.5 s.
    begin = int(6.5 * SAMPLE_RATE_HZ)
    speech = audio.decode(packaged().audio).samples[0][begin : begin + int(seconds * SAMPLE_RATE_HZ)]
    with RichProgress() as progress, _serving(settings, found, progress) as client:
        here = load(engine, EngineSource(found.model_repository / version_folder(engine)))
        report = bench.run(here, client, speech, progress=progress)
    _show(report, as_json=as_json)


def throughput(
    ctx: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Option(help="The weights: a folder or a .nemo file; by default the ones in this package."),
    ] = None,
    synthetic: Annotated[
        Literal["0.6b", "tiny"] | None, typer.Option(help="Random weights of this shape instead.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    batches: Annotated[str, typer.Option(help="Recordings in a call, such as 1,8,32,64,128.")] = "",
    seconds: Annotated[float, typer.Option(help="Length of each recording.", min=1, max=30)] = 20.0,
    repeats: Annotated[int, typer.Option(help="Calls of the engine for one figure.", min=1)] = 5,
    rounds: Annotated[int, typer.Option(help="Turns of engine and server.", min=1)] = 3,
    fill: Annotated[int, typer.Option(help="Largest batches sent in a turn.", min=1)] = 10,
    long: Annotated[
        float | None, typer.Option(help="Length of the long recording in seconds; 0 leaves it out.", min=0)
    ] = None,
    instances: Annotated[
        str, typer.Option(help="Processes to serve with, such as 1,2: one server after the other.")
    ] = "1",
    clients: Annotated[
        int | None, typer.Option(help="Client processes; by default one for each four cores.", min=1)
    ] = None,
    noise: Annotated[bool, typer.Option("--noise", help="Noise in place of recorded speech.")] = False,
    nemo: Annotated[bool, typer.Option("--nemo", help="NeMo in this process as well.")] = False,
    options: Annotated[str, typer.Option(help="Options of the engine, a JSON object.")] = "{}",
    as_json: JsonFlag = False,
) -> None:
    """Parakeet's speed: the engine in this process, and through Triton; one recording alone, one long one."""
    from orchestrator.bench.throughput import command as bench
    from orchestrator.progress import RichProgress
    from orchestrator.runtime.process import ending_on_termination

    asked = bench.Asked(
        weights=None if folder is None else folder.expanduser().absolute(),
        synthetic=synthetic,
        device=device,
        batches=bench.numbers_of("--batches", batches),
        clip_s=seconds,
        repeats=repeats,
        rounds=rounds,
        fill=fill,
        long_s=long,
        instances=bench.numbers_of("--instances", instances) or (1,),
        clients=clients,
        noise=noise,
        nemo=nemo,
        options=options,
    )
    settings = settings_of(ctx)
    with ending_on_termination(), RichProgress() as progress:
        report = bench.run(settings, asked, progress=progress)
    _show(report, as_json=as_json)


def diarization(
    ctx: typer.Context,
    recordings: Recordings = None,
    release: ReleaseName = "current",
    as_json: JsonFlag = False,
) -> None:
    """DER of the diarizer alone, in this process."""
    from orchestrator.bench import diarization as bench
    from orchestrator.bench.recordings import from_folder, packaged
    from orchestrator.bench.report import Report, versions
    from orchestrator.progress import RichProgress
    from orchestrator.repository.plan import version_folder

    chosen = [packaged()] if recordings is None else from_folder(recordings)
    model = _release(settings_of(ctx), release).model_repository / version_folder("diarizer")
    with RichProgress() as progress:
        rows = bench.run(model, chosen, progress=progress)
    report = Report(
        title="The diarizer alone",
        command="spark-speech bench diarization --recordings FOLDER",
        rows=rows,
        notes=("Overlapping speech is counted; der has no collar, der_collar 0.25 s on each side.",),
        versions=versions(bench.PACKAGES),
    )
    _show(report, as_json=as_json)


def online_speakers(
    ctx: typer.Context,
    recordings: Recordings = None,
    release: ReleaseName = "current",
    as_json: JsonFlag = False,
) -> None:
    """DER of live streams' speakers beside the whole recording's, and how long they take, in this process."""
    from orchestrator.bench import online_speakers as bench
    from orchestrator.bench.recordings import from_folder, packaged
    from orchestrator.progress import RichProgress
    from orchestrator.repository.plan import version_folder

    chosen = [packaged()] if recordings is None else from_folder(recordings)
    model = _release(settings_of(ctx), release).model_repository / version_folder("diarizer")
    with RichProgress() as progress:
        report = bench.run(model, chosen, progress=progress)
    _show(report, as_json=as_json)


def word_times(
    ctx: typer.Context,
    recordings: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A folder with a manifest.json of recordings; those with word_times are taken.",
            show_default=False,
        ),
    ] = None,
    sentences: Annotated[
        int, typer.Option(min=0, help="Sentences that each voice of festival says as well.")
    ] = 10,
    release: ReleaseName = "current",
    as_json: JsonFlag = False,
) -> None:
    """How far the word times of a release's recognisers and of its aligner are off, in this process."""
    from orchestrator.bench import word_times_command as bench
    from orchestrator.progress import RichProgress

    chosen = _release(settings_of(ctx), release)
    with RichProgress() as progress:
        report = bench.run(chosen, recordings, sentences, progress=progress)
    _show(report, as_json=as_json)


def stitching(as_json: JsonFlag = False) -> None:
    """How fast words are given their speakers, for 24, 48 and 96 hours of speech."""
    from orchestrator.bench import stitching as bench
    from orchestrator.bench.report import Report, versions

    report = Report(
        title="Stitching words with turns",
        command="spark-speech bench stitching",
        rows=bench.run(),
        notes=(
            "array core: labels from arrays; estimated: and changes moved to punctuation; "
            "transcript: with an object built for every word.",
        ),
        versions=versions(("numpy", "pydantic")),
    )
    _show(report, as_json=as_json)


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
    _show(report, as_json=as_json)


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
    _show(report, as_json=as_json)


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
    _show(report, as_json=as_json)


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
            folder = _release(settings_of(ctx), "current").model_repository / version_folder("parakeet")
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
    _show(report, as_json=as_json)


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
            weights=" ".join(f"--synthetic {pair}" for pair in synthetic or []) or None,
            progress=progress,
        )
    if plot is not None:
        from orchestrator.bench.coldstart.plot import draw

        draw(bars, f"{report.title}; {report.machine}", plot.expanduser())
    _show(report, as_json=as_json)


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
        repository = _release(settings, release).model_repository
        for name in missing:
            folder_of = repository / version_folder(name)
            if folder_of.is_dir():
                found[name] = folder_of
            elif asked:
                raise ConfigurationError(
                    f"the release has no {name}", fix=f"build one with it, or --folder {name}=FOLDER"
                )
    return {name: found[name] for name in wanted or found if name in found}


def streaming_accuracy(
    recordings: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A folder with a manifest.json of recordings; by default a dialogue and made sentences.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="The weights: a folder; by default the embedded ones.")
    ] = None,
    count: Annotated[int, typer.Option(help="Sentences of each made set.", min=2)] = 40,
    device: Annotated[str, typer.Option(help="A torch device.")] = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """What live streams cost in words, and how long words take, by preset; in this process."""
    from orchestrator.bench import streaming_accuracy as bench
    from orchestrator.bench.recordings import from_folder
    from orchestrator.progress import RichProgress

    chosen = None if recordings is None else from_folder(recordings)
    with RichProgress() as progress:
        report = bench.run(folder, chosen, count=count, device=device, progress=progress)
    _show(report, as_json=as_json)


def demo(
    engine: Annotated[Literal["moonshine", "parakeet"], typer.Option(help="The recogniser.")] = "moonshine",
    as_json: JsonFlag = False,
) -> None:
    """Wall time of the demo from an empty home, and again with everything in place."""
    from orchestrator.bench import demo as bench
    from orchestrator.progress import RichProgress
    from orchestrator.runtime.process import ending_on_termination

    with ending_on_termination(), RichProgress() as progress:
        report = bench.run(engine, progress=progress)
    _show(report, as_json=as_json)


def _release(settings: Settings, name: str) -> Release:
    from orchestrator.repository.release import ReleaseStore

    return ReleaseStore(settings.paths.home).find(name)


@contextmanager
def _serving(settings: Settings, release: Release, progress: ProgressReporter) -> Iterator[SpeechClient]:
    """A client of a temporary server over ``release``."""
    from orchestrator.client import SpeechClient
    from orchestrator.runtime import triton
    from orchestrator.runtime.process import ending_on_termination
    from orchestrator.runtime.temporary import temporary_server

    home = settings.paths.home
    installed = triton.install(home, home / "cache", progress)
    with (
        ending_on_termination(),
        temporary_server(settings, release, installed, progress, name="bench") as server,
        SpeechClient(server.url, settings=settings) as client,
    ):
        yield client


def _show(report: Report, *, as_json: bool) -> None:
    emit(report.to_dict(), report.print, as_json=as_json)
