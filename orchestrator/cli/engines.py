"""``spark-speech engines``: which recognisers there are, what they can do, and whether they run here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.common import JsonFlag, emit

if TYPE_CHECKING:
    from orchestrator.engines import EngineSpec


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command("engines")(engines)


def engines(as_json: JsonFlag = False) -> None:
    """List the recognisers: languages, word times, longest window, and whether they run here."""
    from orchestrator import engines as registry  # it brings NumPy, which `--help` need not wait for

    specs = [registry.spec(name) for name in registry.names()]
    states = {spec.name: registry.availability(spec.name) for spec in specs}
    data = [
        {
            "name": spec.name,
            "languages": list(spec.languages),
            "word_times": _word_times(spec),
            "max_window_s": spec.max_window_s,
            "default_source": spec.default_source,
            "extra": spec.extra,
            "packages": list(spec.distributions),
            "ready": states[spec.name].ready,
            "missing": list(states[spec.name].missing),
            "install": states[spec.name].install,
        }
        for spec in specs
    ]

    def human(console: Console) -> None:
        table = Table(
            "Engine", "Languages", "Word times", "Window", "Weights", "Here", box=None, pad_edge=False
        )
        for spec in specs:
            state = states[spec.name]
            table.add_row(
                spec.name,
                " ".join(spec.languages),
                _word_times(spec),
                f"{spec.max_window_s:g} s",
                spec.default_source,
                Text("ready", "green")
                if state.ready
                else Text(f"needs {', '.join(state.missing)}", "yellow"),
            )
        console.print(table)
        for install in dict.fromkeys(state.install for state in states.values() if state.install):
            console.print(
                f"Install what is missing: {install}", markup=False, highlight=False, soft_wrap=True
            )

    emit(data, human, as_json=as_json)


def _word_times(spec: EngineSpec) -> str:
    return "estimated" if spec.times_estimated else "measured"
