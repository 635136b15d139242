"""What every benchmark returns: rows, how they were measured, and the versions that they hold for."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Cell = str | int | float | None
Row = Mapping[str, Cell]
_UNBOUNDED: Final = 10_000
"""Wider than any table, in characters."""


@dataclass(frozen=True, slots=True)
class Report:
    """A table of figures.

    Attributes:
        title: what was measured.
        command: what measures it again.
        rows: one mapping a line; all have the same keys, which name the unit (``wall_s``).
        notes: how to read the figures.
        versions: packages that decide the figures.
        machine: processor, cores and Python.
    """

    title: str
    command: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = field(default_factory=lambda: machine())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def print(self, console: Console) -> None:
        """For people."""
        for table in (self._down(), *([self._across()] if self.rows else ())):
            unbounded = console.options.update(max_width=_UNBOUNDED)
            if Measurement.get(console, unbounded, table).maximum <= console.width:
                console.print(table)
                break
        else:
            self._print_rows(console)
        for note in self.notes:
            console.print(note, highlight=False)
        console.print(f"{self.machine}; {_listed(self.versions)}", style="dim", highlight=False)
        console.print(f"again: {self.command}", style="dim", highlight=False)

    def _print_rows(self, console: Console) -> None:
        """A paragraph for each row, of the figures it has: for more than fit either way."""
        console.print(self.title, style="bold")
        for row in self.rows:
            first, *others = row
            console.print(f"[bold]{escape(shown(row[first]))}[/]", highlight=False)
            figures = (f"{name} {shown(row[name])}" for name in others if row[name] is not None)
            console.print(Padding(Text("  ".join(figures)), (0, 0, 0, 2)), highlight=False)

    def _down(self) -> Table:
        """A line for each row."""
        table = Table(title=self.title, title_justify="left")
        columns = list(self.rows[0]) if self.rows else []
        for name in columns:
            numeric = all(not isinstance(row[name], str) for row in self.rows)
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(shown(row[name]) for name in columns))
        return table

    def _across(self) -> Table:
        """A column for each row."""
        first, *others = self.rows[0]
        table = Table(title=self.title, title_justify="left")
        table.add_column(first, no_wrap=True, min_width=max(map(len, self.rows[0])))
        for row in self.rows:
            table.add_column(shown(row[first]), justify="right", overflow="fold")
        for name in others:
            table.add_row(name, *(shown(row[name]) for row in self.rows))
        return table


def shown(cell: Cell) -> str:
    """A cell as people read it: floats to about four digits, nothing for None."""
    if cell is None:
        return ""
    if not isinstance(cell, float):
        return str(cell)
    decimals = 3 if abs(cell) < 10 else 1 if abs(cell) < 1000 else 0
    return f"{cell:.{decimals}f}"


def machine() -> str:
    """Processor family, cores that this process may use, Python."""
    cores = len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {cores} cores, Python {platform.python_version()}"


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """The installed version of each distribution; one that is not installed is left out."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _listed(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in packages.items())
