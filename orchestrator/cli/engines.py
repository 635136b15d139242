"""``spark-speech engines``: every engine, what it needs and can do, and whether it can run here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.common import JsonFlag, emit, settings_of

if TYPE_CHECKING:
    from orchestrator.engines import Availability, EngineSpec
    from orchestrator.settings import Settings

Kind = Literal["recordings", "live", "alignment", "outside"]
"""Where an engine works: in Triton for recordings, live streams or word times, or in a service outside it."""


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("engines")(engines)


def engines(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """List all engines: what they can do, what they need, and whether they can run here."""
    from orchestrator import engines as registry  # it brings NumPy, which `--help` need not wait for

    settings = settings_of(ctx)
    kinds: tuple[tuple[Kind, tuple[str, ...]], ...] = (
        ("recordings", registry.names()),
        ("live", registry.streaming_names()),
        ("alignment", registry.aligner_names()),
        ("outside", registry.outside_names()),
    )
    rows = [
        (kind, registry.spec(name), registry.availability(name)) for kind, names in kinds for name in names
    ]
    data = [_entry(kind, spec, state, settings) for kind, spec, state in rows]
    emit(data, lambda console: _show(data, console), as_json=as_json)


def _entry(kind: Kind, spec: EngineSpec, state: Availability, settings: Settings) -> dict[str, Any]:
    configured = _is_set(spec, settings)
    return {
        "name": spec.name,
        "kind": kind,
        "languages": list(spec.languages),
        "word_times": "estimated" if spec.times_estimated else "measured",
        "recordings": kind in ("recordings", "outside"),
        "streams": spec.streams,
        "detects_language": spec.detects_language,
        "max_window_s": spec.max_window_s,
        "default_source": spec.default_source,
        "extra": spec.extra,
        "packages": list(spec.distributions),
        "setting": spec.setting,
        "configured": configured,
        "ready": state.ready and configured,
        "missing": list(state.missing),
        "install": state.install,
    }


def _is_set(spec: EngineSpec, settings: Settings) -> bool:
    """Whether the setting that brings an engine in is set; true of one that needs none."""
    if spec.setting is None:
        return True
    section, _, key = spec.setting.partition(".")
    return getattr(getattr(settings, section), key) is not None


def _show(data: list[dict[str, Any]], console: Console) -> None:
    table = Table(
        "Engine", "For", "Languages", "Word times", "Window", "Needs", "Here", box=None, pad_edge=False
    )
    for entry in data:
        work = [
            name
            for name, able in (
                ("recordings", entry["recordings"]),
                ("live", entry["streams"]),
                ("language", entry["detects_language"]),
                ("word times", entry["kind"] == "alignment"),
            )
            if able
        ]
        needs = entry["setting"] or entry["default_source"]
        table.add_row(
            entry["name"],
            ", ".join(work),
            " ".join(entry["languages"]) or "the server's",
            entry["word_times"],
            f"{entry['max_window_s']:g} s",
            needs,
            _here(entry),
        )
    console.print(table)
    for install in dict.fromkeys(entry["install"] for entry in data if entry["install"]):
        console.print(f"Install what is missing: {install}", markup=False, highlight=False, soft_wrap=True)


def _here(entry: dict[str, Any]) -> Text:
    if entry["missing"]:
        return Text(f"needs {', '.join(entry['missing'])}", "yellow")
    if not entry["configured"]:
        return Text(f"set {entry['setting']}", "yellow")
    return Text("ready", "green")
