"""Earlier runs, kept as lines of JSON, and what has become slower since."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

KEPT: Final = 5
"""Earlier runs that a new one is compared with."""
SLOWER: Final = 1.25
"""A start that takes this many times the median of earlier ones is a regression,"""
SLOWER_S: Final = 0.25
"""if it is this many seconds more as well."""
_NAMES: Final = ("engine", "device", "state", "machine")


@dataclass(frozen=True, slots=True)
class Start:
    """The median start of an engine in one state.

    Attributes:
        engine, device, state: what was started, where, and what it found.
        machine: what it ran on.
        total_s: from the start of the process to its first result, seconds.
    """

    engine: str
    device: str
    state: str
    machine: str
    total_s: float

    def compares_with(self, other: Start) -> bool:
        """Whether both measure the same thing."""
        mine = (self.engine, self.device, self.state, self.machine)
        return mine == (other.engine, other.device, other.state, other.machine)


def read(path: Path) -> list[Start]:
    """Earlier starts, oldest first; lines that are damaged are left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            data: dict[str, Any] = json.loads(line)
            engine, device, state, machine = (str(data[name]) for name in _NAMES)
            found.append(Start(engine, device, state, machine, float(data["total_s"])))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def append(path: Path, starts: Sequence[Start]) -> None:
    """Keep new starts.

    Raises:
        OSError: they cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"at": round(time.time()), **asdict(start)}) + "\n" for start in starts]
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(lines))


def earlier_s(start: Start, history: Sequence[Start]) -> float | None:
    """The median of the last comparable starts, seconds; None without one."""
    totals = [old.total_s for old in history if old.compares_with(start)][-KEPT:]
    return statistics.median(totals) if totals else None


def is_regression(total_s: float, before_s: float | None) -> bool:
    """Whether a start is slower than it was, by more than chance."""
    return before_s is not None and total_s > SLOWER * before_s and total_s > before_s + SLOWER_S
