"""The stages of all starts as stacked bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from orchestrator.bench.coldstart.probe import STAGES
from orchestrator.errors import ConfigurationError, MissingDependencyError

_BAR_INCHES: Final = 0.45
_COLOURS: Final = ("#9aa5b1", "#4c78a8", "#72b7b2", "#e45756", "#54a24b")


def draw(bars: Sequence[tuple[str, Mapping[str, float]]], title: str, target: Path) -> None:
    """Write a PNG.

    Args:
        bars: a label and its stages in seconds, from the top down.
        title: above it.
        target: the file; whole or not there.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        ConfigurationError: the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "the plot is drawn with matplotlib, which is not installed",
            fix="pip install 'spark-speech[bench]'",
        ) from error
    figure = Figure(figsize=(9.0, 1.6 + _BAR_INCHES * len(bars)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    labels = [label for label, _ in bars]
    left = [0.0] * len(bars)
    for stage, colour in zip(STAGES, _COLOURS, strict=True):
        widths = [stages.get(stage, 0.0) for _, stages in bars]
        axes.barh(labels, widths, left=left, label=stage, color=colour)
        left = [so_far + width for so_far, width in zip(left, widths, strict=True)]
    for row, total in enumerate(left):
        axes.text(total, row, f" {total:.2f} s", va="center")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("seconds from the start of the process to its first result")
    axes.set_title(title, loc="left")
    axes.legend(ncols=len(STAGES), loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False)
    part = target.with_name(target.name + ".part")
    try:
        figure.savefig(part, format="png", dpi=120)
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigurationError(
            f"the plot cannot be written: {error.strerror}", fix="name another file with --plot", path=target
        ) from error
